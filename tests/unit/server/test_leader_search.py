"""Finding the leader through the other servers, on virtual time."""

import asyncio
from typing import Any

from isthmus.errors import DialFailed
from isthmus.model.record import Record
from isthmus.net.client import ServerTarget
from isthmus.server.leader_search import ASK_TIMEOUT, FOUND_TIME, LeaderSearch
from isthmus.server.operator import LanServer
from support.virtual_loop import now, run_virtual


class Others:
    """Servers ``s1`` … that say who leads; implements `server.forward.RemoteCaller`."""

    def __init__(self, **says: str | None) -> None:
        self.says = says
        self.asked: list[str] = []

    def servers(self) -> list[LanServer]:
        return [
            LanServer(server_id=f"id-{name}", node=name, address=f"{name}:8300", alive=name != "s9")
            for name in ("s1", *self.says)
        ]

    async def call(
        self,
        target: ServerTarget,
        method: str,
        request: Record,
        reply_type: Any,
        *,
        timeout: float,
        repeatable: bool = False,
    ) -> Any:
        assert method == "Status.Leader"
        self.asked.append(target.node)
        said = self.says[target.node]
        if said is None:  # It is away, and takes its time.
            await asyncio.sleep(timeout)
            raise DialFailed("away", dc="", node=target.node, gateway="", step="connect")
        return said

    def search(self) -> LeaderSearch:
        return LeaderSearch(self, servers=self.servers, own_id="id-s1", dc="dc1")


def find(others: Others) -> tuple[str | None, float]:
    async def play() -> tuple[str | None, float]:
        found = await others.search().find()
        return found.node if found else None, now()

    return run_virtual(play())


def test_leader_is_who_says_so_of_itself_and_nobody_waits_for_the_others() -> None:
    others = Others(s2="s1:8300", s3="s3:8300", s4=None)
    assert find(others) == ("s3", 0.0)
    assert sorted(others.asked) == ["s2", "s3", "s4"]


def test_what_servers_say_of_others_or_of_us_counts_for_nothing() -> None:
    assert find(Others(s2="s1:8300", s3="s2:8300", s4="")) == (None, 0.0)


def test_servers_that_failed_are_not_asked_and_silent_ones_not_waited_for_long() -> None:
    others = Others(s2=None, s9="s9:8300")
    assert find(others) == (None, ASK_TIMEOUT)
    assert others.asked == ["s2"]


def test_callers_share_questions() -> None:
    others = Others(s2="s2:8300")

    async def play() -> None:
        search = others.search()
        found = await asyncio.gather(*(search.find() for _ in range(100)))
        assert {target.node for target in found if target} == {"s2"}
        assert others.asked == ["s2"]
        await asyncio.sleep(FOUND_TIME)
        others.says["s2"] = ""
        assert await search.find() is None
        assert others.asked == ["s2", "s2"]

    run_virtual(play())
