"""Paths and clients that the configuration refuses."""

import pytest

from isthmus.http.access import Access
from isthmus.http.request import Request


def refused(access: Access, method: str, path: str, *, peer: str = "127.0.0.1") -> str:
    response = access.refusal(Request(method, path, peer=peer), path)
    if response is None:
        return ""
    assert response.status == 403
    return response.body.decode()


def test_blocked_path_is_refused_with_all_that_starts_like_it() -> None:
    access = Access(block_endpoints=["/v1/kv", "/v1/agent/self"])
    blocked = "Endpoint is blocked by agent configuration"
    assert refused(access, "GET", "/v1/kv/a") == blocked
    assert refused(access, "GET", "/v1/agent/self") == blocked
    assert refused(access, "GET", "/v1/agent/members") == ""


@pytest.mark.parametrize(
    ("method", "peer", "text"),
    [
        ("PUT", "10.1.2.3", ""),
        ("PUT", "::ffff:10.1.2.3", ""),
        ("PUT", "10.2.0.1", "Access is restricted"),
        ("DELETE", "fd00::1", "Access is restricted"),
        ("POST", "", "Access is restricted"),
        ("GET", "10.2.0.1", ""),
        ("OPTIONS", "", ""),
    ],
)
def test_only_named_networks_may_write(method: str, peer: str, text: str) -> None:
    access = Access(write_networks=["10.1.0.0/16"])
    assert refused(access, method, "/v1/kv/a", peer=peer) == text


def test_without_rules_nothing_is_refused() -> None:
    assert not Access()
    assert refused(Access(), "PUT", "/v1/kv/a", peer="") == ""
    assert Access(write_networks=["10.0.0.0/8"])
    assert Access(block_endpoints=["/v1/kv"])
