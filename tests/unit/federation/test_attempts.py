"""Which servers a call is tried on."""

from isthmus.federation.attempts import CallAttempts
from isthmus.federation.router import Router, ServerInfo


def make_router(*nodes: str) -> Router:
    router = Router()
    for node in nodes:
        router.put(ServerInfo(name=f"{node}.dc2", node=node, dc="dc2", host="10.2.0.1", port=8300))
    return router


def tried(attempts: CallAttempts, *, dial: bool) -> list[str]:
    """Servers that are tried while every attempt fails in the same way."""
    nodes = []
    while (server := attempts.next()) is not None:
        nodes.append(server.node)
        if dial:
            attempts.dial_failed(server, now=0.0)
        else:
            attempts.connection_lost(server, now=0.0)
    return nodes


def test_unknown_datacenter_has_nobody_to_try() -> None:
    assert CallAttempts(Router(), "dc2", repeatable=True, now=0.0).next() is None


def test_every_server_is_dialled_once() -> None:
    attempts = CallAttempts(make_router("a", "b"), "dc2", repeatable=True, now=0.0)
    assert tried(attempts, dial=True) == ["a", "b"]


def test_read_is_repeated_on_a_server_that_broke_the_connection() -> None:
    attempts = CallAttempts(make_router("a"), "dc2", repeatable=True, now=0.0)
    assert tried(attempts, dial=False) == ["a", "a", "a"]


def test_write_that_may_have_taken_effect_is_not_repeated() -> None:
    attempts = CallAttempts(make_router("a", "b"), "dc2", repeatable=False, now=0.0)
    assert tried(attempts, dial=False) == ["a"]


def test_write_that_was_never_sent_goes_to_the_next_server() -> None:
    attempts = CallAttempts(make_router("a", "b", "c", "d"), "dc2", repeatable=False, now=0.0)
    assert tried(attempts, dial=True) == ["a", "b", "c", "d"]


def test_server_that_failed_is_tried_last_by_the_next_call() -> None:
    router = make_router("a", "b")
    first = CallAttempts(router, "dc2", repeatable=True, now=0.0)
    server = first.next()
    assert server is not None
    first.dial_failed(server, now=0.0)
    again = CallAttempts(router, "dc2", repeatable=True, now=0.0).next()
    assert again is not None
    assert again.node == "b"
