"""Certificates shared by the tests of the network: two datacenters of one CA, and a stranger's."""

from dataclasses import dataclass

import pytest

from support.certificates import Authority, Certificate


@dataclass(frozen=True)
class Certificates:
    """Who there is."""

    authority: Authority
    alpha: Certificate
    """Server ``alpha`` of dc1."""
    beta: Certificate
    """Server ``beta`` of dc2."""
    client: Certificate
    """A client agent of dc1."""
    stranger: Certificate
    """Server ``alpha`` of dc1, as another CA has it."""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once: keys are slow."""
    authority = Authority(tmp_path_factory.mktemp("ca"))
    other = Authority(tmp_path_factory.mktemp("other-ca"))
    alpha = ("alpha.server.dc1.consul", "server.dc1.consul", "localhost")
    return Certificates(
        authority,
        alpha=authority.issue(*alpha),
        beta=authority.issue("beta.server.dc2.consul", "server.dc2.consul", "localhost"),
        client=authority.issue("client.dc1.consul", "localhost"),
        stranger=other.issue(*alpha),
    )
