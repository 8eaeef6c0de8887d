"""``Status``: who is there, also while nobody leads."""

from isthmus.model.methods import METHODS
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.server.server import Server
from support.servers import make_server


async def test_server_that_leads_names_itself(server: Server) -> None:
    assert await server.call("Status.Leader", DatacenterRequest()) == "127.0.0.1:8300"
    assert await server.call("Status.Peers", DatacenterRequest()) == ("127.0.0.1:8300",)


async def test_nobody_leads_and_that_is_an_answer() -> None:
    """Clients ask this to find out; an error would tell them nothing."""
    server = make_server()
    assert await server.call("Status.Leader", DatacenterRequest()) == ""
    assert await server.call("Status.Peers", DatacenterRequest()) == ("127.0.0.1:8300",)
    await server.stop()


async def test_ping_is_answered_without_a_leader() -> None:
    server = make_server()
    assert await server.call("Status.Ping", Empty()) == Empty()
    await server.stop()


def test_replies_are_what_the_table_of_methods_says() -> None:
    found = {name: METHODS[f"Status.{name}"].reply for name in ("Ping", "Leader", "Peers")}
    assert found == {"Ping": Empty, "Leader": str, "Peers": tuple[str, ...]}
