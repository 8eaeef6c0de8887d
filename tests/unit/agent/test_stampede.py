"""A hundred datacenters come back at once, on virtual time: all in time, dials bounded."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from random import Random
from typing import Any, TypeVar

import msgspec

from isthmus.agent.join import Rejoin
from isthmus.errors import DialFailed
from isthmus.federation.joining import REJOIN_INTERVAL
from isthmus.federation.locator import GatewayLocator
from isthmus.federation.replication import REPLICATION_RETRY_LONGEST
from isthmus.model.catalog import CheckServiceNode, Node, NodeService
from isthmus.model.config_entry import (
    ConfigEntry,
    ConfigEntryListAllRequest,
    ConfigEntryRequest,
    IndexedGenericConfigEntries,
)
from isthmus.model.federation import (
    DELETE,
    FederationState,
    FederationStateRequest,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.model.record import Record
from isthmus.server.leader import FederationDuties
from support.virtual_loop import now, run_virtual

T = TypeVar("T")

DATACENTERS = 100
AWAY = 600.0
RECOVERY = 5.0 * 1.1  # The longest wait between two rounds of replication, with its jitter.
WALL = datetime(2026, 1, 1, tzinfo=UTC)


def gateway(dc: str) -> CheckServiceNode:
    return CheckServiceNode(
        node=Node(node="gw", address="10.0.0.1"),
        service=NodeService(id="gw", kind="mesh-gateway", address=dc, port=8443),
    )


class Table:
    """Federation states of one store, with their index."""

    def __init__(self) -> None:
        self.index = 1
        self.states: dict[str, FederationState] = {}
        self.changed = asyncio.Condition()

    async def apply(self, command: FederationStateRequest | ConfigEntryRequest) -> object:
        assert isinstance(command, FederationStateRequest)
        state = command.state
        assert state is not None
        async with self.changed:
            self.index += 1
            if command.op == DELETE:
                self.states.pop(state.datacenter, None)
            else:
                self.states[state.datacenter] = msgspec.structs.replace(
                    state,
                    create_index=self.index,
                    modify_index=self.index,
                    primary_modify_index=state.primary_modify_index or self.index,
                )
            self.changed.notify_all()
        return True

    async def federation_states(self, min_index: int) -> tuple[int, tuple[FederationState, ...]]:
        async with self.changed:
            await self.changed.wait_for(lambda: self.index > min_index)
        return self.index, tuple(self.states.values())


class Primary:
    """Answers while it is there; counts who asks in each second."""

    def __init__(self) -> None:
        self.table = Table()
        self.is_there = True
        self.dials: Counter[int] = Counter()

    def dial(self) -> None:
        self.dials[int(now())] += 1
        if not self.is_there:
            raise DialFailed("refused", dc="dc0", node="*", gateway="gw", step="connect")

    async def call(self, dc: str, method: str, request: Record, reply: Any) -> Any:
        if dc != "dc0":
            raise DialFailed("not here", dc=dc, node="*", gateway="", step="no gateway known")
        self.dial()
        if isinstance(request, FederationStateRequest):
            return await self.table.apply(request)
        if isinstance(request, ConfigEntryListAllRequest):
            if request.min_query_index:
                await self._while_there(asyncio.Event().wait())
            return IndexedGenericConfigEntries(index=1)
        assert isinstance(request, DatacenterRequest)
        found = self.table.federation_states(request.min_query_index)
        index, states = await self._while_there(found)
        return IndexedFederationStates(index=index, states=states)

    async def _while_there(self, work: Coroutine[Any, Any, T]) -> T:
        """What a read answers that waits; it breaks off when we go away."""
        blocked = asyncio.ensure_future(work)
        while not blocked.done():
            await asyncio.wait({blocked}, timeout=1.0)
            if not self.is_there:
                blocked.cancel()
                raise DialFailed("gone", dc="dc0", node="*", gateway="gw", step="connect")
        return blocked.result()


class Secondary:
    """The leader of one secondary: its duties, and rejoining."""

    def __init__(self, number: int, primary: Primary) -> None:
        self.dc = f"dc{number}"
        self.table, self.primary = Table(), primary
        self.present: set[str] = {"dc0"}
        self.apply = self.table.apply
        self.federation_states = self.table.federation_states
        rng = Random(number)
        self.locator = GatewayLocator(dc=self.dc, primary_dc="dc0", rng=rng)
        self.duties = FederationDuties(
            dc=self.dc,
            primary_dc="dc0",
            tables=self,
            remote=primary,
            locator=self.locator,
            enabled=lambda: True,
            known_dcs=lambda: {"dc0"},
            wall=lambda: WALL,
            rng=rng,
        )
        self.rejoin = Rejoin(
            known=lambda: {"dc0"}, present=lambda: self.present, join=self._join, rng=rng
        )

    def config_entries(self) -> tuple[ConfigEntry, ...]:
        return ()

    async def mesh_gateways(self, min_index: int) -> tuple[int, tuple[CheckServiceNode, ...]]:
        if min_index:
            await asyncio.Event().wait()
        return 2, (gateway(self.dc),)

    async def _join(self, dc: str) -> None:
        self.primary.dial()
        self.present.add(dc)
        self.duties.wake()

    def lose(self) -> None:
        """The pool declares the primary failed."""
        self.present.discard("dc0")
        self.rejoin.wake()
        self.duties.wake()

    def is_whole(self) -> bool:
        """Whether it has what the primary has, and sees it."""
        ours = {dc: state.primary_modify_index for dc, state in self.table.states.items()}
        theirs = {dc: state.modify_index for dc, state in self.primary.table.states.items()}
        return ours == theirs and "dc0" in self.present


async def reach(condition: Callable[[], bool], *, within: float) -> float:
    """Virtual seconds until a condition holds."""
    started = now()
    while not condition():
        assert now() - started <= within, f"not within {within} s"
        await asyncio.sleep(0.05)
    return now() - started


async def play() -> None:
    primary = Primary()
    secondaries = [Secondary(number, primary) for number in range(1, DATACENTERS + 1)]
    loop = asyncio.get_running_loop()
    tasks = [
        loop.create_task(work)
        for one in secondaries
        for work in (one.duties.run(), one.rejoin.run())
    ]
    try:
        await reach(
            lambda: (
                len(primary.table.states) == DATACENTERS
                and all(one.is_whole() for one in secondaries)
            ),
            within=60,
        )
        primary.is_there = False
        for one in secondaries:
            one.lose()
        await asyncio.sleep(AWAY)
        away = dict(primary.dials)
        primary.is_there = True
        back = now()
        took = await reach(lambda: all(one.is_whole() for one in secondaries), within=RECOVERY)
        print(f"{DATACENTERS} datacenters whole {took:.2f} s after the primary is back")
        # While it is away each tries its ways once a second or less; nothing synchronises them.
        steady = [away.get(second, 0) for second in range(int(back) - 120, int(back) - 1)]
        a_second = DATACENTERS * (1 / REJOIN_INTERVAL + 2 / REPLICATION_RETRY_LONGEST)
        assert max(steady) <= 1.5 * a_second
        assert max(primary.dials[int(back) + second] for second in range(7)) <= 4 * a_second
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_hundred_datacenters_recover_in_time_without_a_stampede() -> None:
    run_virtual(play())
