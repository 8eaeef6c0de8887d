"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator

import pytest

from support import netns


@pytest.fixture
def sites() -> Iterator[netns.Sites]:
    """Three datacenters in namespaces of their own, joined at their gateways only."""
    if why := netns.missing():
        pytest.skip(why)
    with netns.Sites(3) as sites:
        yield sites
