"""The captured gossip vectors, as a fixture for the tests of both gossip codecs."""

import pytest

from support.gossip_vectors import GossipVector, load, paths


@pytest.fixture(params=paths(), ids=lambda path: path.stem)
def gossip_vector(request: pytest.FixtureRequest) -> GossipVector:
    """Each captured vector of protocol/gossip.md §19."""
    return load(request.param)
