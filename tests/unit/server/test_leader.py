"""The leader's duties on virtual time: announce, replicate, prune."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import pairwise
from random import Random
from typing import Any, TypeVar

import msgspec
import pytest

from isthmus.errors import FEDERATION_STATES_DISABLED, NoLeader, RemoteError, Unavailable
from isthmus.federation.locator import GatewayLocator
from isthmus.model.catalog import CheckServiceNode, Node, NodeService
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    COPY,
    ConfigEntry,
    ConfigEntryListAllRequest,
    ConfigEntryRequest,
    IndexedGenericConfigEntries,
    ServiceConfigEntry,
)
from isthmus.model.federation import (
    DELETE,
    FederationState,
    FederationStateRequest,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.model.record import Record
from isthmus.server.leader import FederationDuties, feed_locator
from isthmus.store.engine import NoSpace
from support.virtual_loop import now, run_virtual, settle

WALL = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def gateway(address: str) -> CheckServiceNode:
    return CheckServiceNode(
        node=Node(node="gw", address=address),
        service=NodeService(kind="mesh-gateway", id="gw", service="gw", port=443),
    )


def state(dc: str, *addresses: str, index: int = 0) -> FederationState:
    gateways = tuple(gateway(address) for address in addresses)
    return FederationState(datacenter=dc, mesh_gateways=gateways or None, modify_index=index)


class FakeTables:
    """Our own store: states and gateways with one index, and a condition to wait for it."""

    def __init__(self) -> None:
        self.index = 1
        self.states: dict[str, FederationState] = {}
        self.gateways: tuple[CheckServiceNode, ...] = ()
        self.entries: dict[tuple[str, str], ConfigEntry] = {}
        self.entry_writes: list[tuple[float, str, str]] = []
        self.entry_failures: list[Exception] = []
        self.writes: list[tuple[float, str, str]] = []
        self.failures: list[Exception] = []
        self.watch_failures: list[Exception] = []
        self._changed = asyncio.Condition()

    async def change(self, edit: Callable[[], object]) -> None:
        async with self._changed:
            edit()
            self.index += 1
            self._changed.notify_all()

    async def put_gateways(self, *addresses: str) -> None:
        found = tuple(gateway(address) for address in addresses)
        await self.change(lambda: setattr(self, "gateways", found))

    async def _past(self, min_index: int) -> int:
        if self.watch_failures:
            raise self.watch_failures.pop()
        async with self._changed:
            await self._changed.wait_for(lambda: self.index > min_index)
        return self.index

    async def federation_states(self, min_index: int) -> tuple[int, tuple[FederationState, ...]]:
        index = await self._past(min_index)
        return index, tuple(self.states[dc] for dc in sorted(self.states))

    async def mesh_gateways(self, min_index: int) -> tuple[int, tuple[CheckServiceNode, ...]]:
        return await self._past(min_index), self.gateways

    def config_entries(self) -> tuple[ConfigEntry, ...]:
        return tuple(self.entries[key] for key in sorted(self.entries))

    async def _apply_entry(self, command: ConfigEntryRequest) -> object:
        entry = command.entry
        assert entry is not None
        self.entry_writes.append((now(), command.op, f"{entry.kind}/{entry.name}"))
        if self.entry_failures:
            raise self.entry_failures.pop(0)
        if command.op == DELETE:
            await self.change(lambda: self.entries.pop((entry.kind, entry.name)))
        else:
            stored = msgspec.structs.replace(entry, modify_index=self.index)
            await self.change(lambda: self.entries.update({(entry.kind, entry.name): stored}))
        return True

    async def apply(self, command: FederationStateRequest | ConfigEntryRequest) -> object:
        if isinstance(command, ConfigEntryRequest):
            return await self._apply_entry(command)
        assert command.state is not None
        self.writes.append((now(), command.op, command.state.datacenter))
        if self.failures:
            raise self.failures.pop(0)
        dc, new = command.state.datacenter, command.state
        if command.op == DELETE:
            await self.change(lambda: self.states.pop(dc, None))
        else:
            await self.change(lambda: self.states.update({dc: new}))
        return True


Answer = IndexedFederationStates | Exception
T = TypeVar("T")


class FakePrimary:
    """The primary: takes writes, answers lists with what is prepared, then blocks for ever."""

    def __init__(self, *lists: Answer, refuses: Callable[[], Exception | None]) -> None:
        self.lists: list[Answer] = list(lists)
        self.refuses = refuses
        self.asked: list[tuple[float, int]] = []
        self.entry_lists: list[IndexedGenericConfigEntries | Exception] = []
        self.asked_entries: list[tuple[float, int]] = []
        self.written: list[tuple[float, tuple[str, ...]]] = []
        self.on_write: Callable[[FederationState], Awaitable[object]] | None = None
        self.others: dict[str, tuple[FederationState, ...]] = {}
        self.asked_others: list[tuple[float, str]] = []

    async def call(self, dc: str, method: str, request: Record, reply: Any) -> Any:
        if dc != "dc1":
            self.asked_others.append((now(), dc))
            return listed(5, *self.others[dc])
        if isinstance(request, FederationStateRequest):
            assert (method, request.datacenter, request.token) == (
                "FederationState.Apply",
                "dc1",
                "secret",
            )
            return await self._apply(request)
        if isinstance(request, ConfigEntryListAllRequest):
            assert (method, request.datacenter, request.allow_stale, request.token) == (
                "ConfigEntry.ListAll",
                "dc1",
                True,
                "secret",
            )
            assert request.kinds == tuple(CONFIG_ENTRY_TYPES)
            self.asked_entries.append((now(), request.min_query_index))
            return await self._next(self.entry_lists)
        assert isinstance(request, DatacenterRequest)
        assert (method, request.datacenter, request.allow_stale, request.token) == (
            "FederationState.List",
            "dc1",
            True,
            "secret",
        )
        return await self._list(request)

    async def _apply(self, request: FederationStateRequest) -> bool:
        assert request.state is not None
        found = request.state.mesh_gateways or ()
        self.written.append((now(), tuple(item.node.address for item in found if item.node)))
        if error := self.refuses():
            raise error
        if self.on_write is not None:
            await self.on_write(request.state)
        return True

    async def _list(self, request: DatacenterRequest) -> IndexedFederationStates:
        self.asked.append((now(), request.min_query_index))
        return await self._next(self.lists)

    async def _next(self, lists: list[T | Exception]) -> T:
        if not lists:
            await asyncio.Event().wait()
        answer = lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class NoJitter(Random):
    def random(self) -> float:
        return 0.0


class World:
    """Duties of one leader and all that they touch. `play` runs them for a time."""

    def __init__(self, *lists: Answer, dc: str = "dc2") -> None:
        self.dc = dc
        self.tables = FakeTables()
        self.refusals: list[Exception] = []
        self.primary = FakePrimary(
            *lists, refuses=lambda: self.refusals.pop(0) if self.refusals else None
        )
        self.locator = GatewayLocator(dc=dc, primary_dc="dc1", rng=Random(1))
        self.known: set[str] = {"dc1", "dc2"}
        self.enabled = True
        self.told: list[float] = []
        self.rng: Random = NoJitter()

    async def play(self, seconds: float, *acts: tuple[float, Callable[[], Any]]) -> None:
        """Run the duties; each act happens at its moment."""
        self.duties = FederationDuties(
            dc=self.dc,
            primary_dc="dc1",
            tables=self.tables,
            remote=self.primary,
            locator=self.locator,
            enabled=lambda: self.enabled,
            known_dcs=lambda: self.known,
            wall=lambda: WALL,
            rng=self.rng,
            token="secret",
        )
        loop = asyncio.get_running_loop()
        running = loop.create_task(self.duties.run())
        feeding = loop.create_task(feed_locator(self.tables, self.locator, lambda: None))
        for moment, act in sorted(acts, key=lambda item: item[0]):
            await asyncio.sleep(moment - now())
            done = act()
            if done is not None:
                await done
        await asyncio.sleep(seconds - now())
        await settle()
        if running.done():
            running.result()
        running.cancel()
        feeding.cancel()
        await asyncio.wait({running, feeding})

    def run(self, seconds: float, *acts: tuple[float, Callable[[], Any]]) -> None:
        run_virtual(self.play(seconds, *acts))


def echo(world: World) -> None:
    """What the primary takes comes back into our store, as replication would bring it."""

    async def store(written: FederationState) -> None:
        await world.tables.change(lambda: world.tables.states.update({world.dc: written}))

    world.primary.on_write = store


# Announce ---------------------------------------------------------------------------------------


def test_own_gateways_are_written_to_the_primary_once() -> None:
    world = World()
    echo(world)
    world.tables.gateways = (gateway("10.0.0.1"),)
    world.run(3000)
    assert world.primary.written == [(0.0, ("10.0.0.1",))]


def test_datacenter_without_gateways_has_a_record_too() -> None:
    world = World()
    echo(world)
    world.run(10)
    assert world.primary.written == [(0.0, ())]


def test_what_the_primary_has_already_is_not_written() -> None:
    world = World()
    world.tables.gateways = (gateway("10.0.0.1"),)
    world.tables.states["dc2"] = state("dc2", "10.0.0.1")
    world.run(3000)
    assert world.primary.written == []


def test_news_before_the_echo_bring_no_second_write() -> None:
    world = World()
    world.run(100, *[(moment, lambda: world.duties.wake()) for moment in (10, 20, 30)])
    assert world.primary.written == [(0.0, ())]


def test_write_whose_echo_never_comes_is_repeated_at_the_next_comparison() -> None:
    world = World()
    world.run(310)
    assert world.primary.written == [(0.0, ()), (300.0, ())]


def test_burst_of_changes_ends_with_the_last_state_written() -> None:
    world = World()
    echo(world)

    def change(number: int) -> tuple[float, Callable[[], Any]]:
        return 100 + number / 10, lambda: world.tables.put_gateways(f"10.0.0.{number}")

    world.run(200, *[change(number) for number in range(1, 11)])
    writes = [write for write in world.primary.written if write[0] >= 100]
    assert [moment for moment, _ in writes] == [100.1, 100.2, 100.3, 100.4, 100.5, 101.1]
    assert writes[-1] == (101.1, ("10.0.0.10",))


def test_failed_write_is_repeated_after_waits_that_double() -> None:
    world = World()
    echo(world)
    world.refusals = [Unavailable("no way") for _ in range(9)]
    world.run(2000)
    moments = [moment for moment, _ in world.primary.written]
    assert moments == [0, 2, 6, 14, 24, 34, 44, 54, 64, 74]


def test_news_bring_the_repetition_forward_and_make_waits_short_again() -> None:
    world = World()
    echo(world)
    world.refusals = [Unavailable("no way") for _ in range(5)]
    world.run(100, (20, lambda: world.duties.wake()))
    assert [moment for moment, _ in world.primary.written] == [0, 2, 6, 14, 20, 22]


def test_news_that_came_before_an_attempt_do_not_repeat_it() -> None:
    world = World()
    echo(world)
    world.enabled = False
    world.refusals = [Unavailable("no way")]

    def enable() -> None:
        world.enabled = True
        world.duties.wake()

    world.run(100, (1, lambda: world.duties.wake()), (50, enable))
    assert [moment for moment, _ in world.primary.written] == [50, 52]


def test_refused_token_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.refusals = [RemoteError("rpc error making call: Permission denied")]
    world.run(1)
    assert "the replication token needs operator:write" in caplog.text


def test_nothing_is_written_while_the_feature_is_off() -> None:
    world = World()
    world.enabled = False
    world.run(1000)
    assert (world.primary.written, world.primary.asked) == ([], [])


def test_primary_writes_its_own_record_into_its_own_store() -> None:
    world = World(dc="dc1")
    world.tables.gateways = (gateway("10.0.0.1"),)
    world.run(1000)
    assert world.tables.writes == [(0.0, "upsert", "dc1")]
    assert (world.primary.written, world.primary.asked) == ([], [])


@pytest.mark.parametrize("error", [NoLeader(), NoSpace("disk full", operation="commit")])
def test_failure_of_our_own_store_is_survived(error: Exception) -> None:
    world = World(dc="dc1")
    world.tables.failures = [error]
    world.tables.watch_failures = [Unavailable("too many watches")]
    world.run(1000)
    assert [write[1:] for write in world.tables.writes] == [("upsert", "dc1")] * 2


# Replicate --------------------------------------------------------------------------------------


def listed(index: int, *states: FederationState) -> IndexedFederationStates:
    return IndexedFederationStates(index=index, states=states)


def test_first_round_copies_all_and_the_next_blocks_on_its_index() -> None:
    world = World(listed(17, state("dc1", "10.1.0.1", index=17), state("dc3", index=9)))
    world.tables.states["old"] = state("old")
    world.run(100)
    assert world.tables.writes == [
        (0.0, "delete", "old"),
        (0.0, "upsert", "dc1"),
        (0.0, "upsert", "dc3"),
    ]
    assert world.tables.states["dc1"].primary_modify_index == 17
    assert world.primary.asked == [(0.0, 0), (0.0, 17)]


def test_equal_records_are_not_written() -> None:
    ours = msgspec.structs.replace(state("dc1"), primary_modify_index=17)
    world = World(listed(17, state("dc1", index=17)))
    world.tables.states["dc1"] = ours
    world.run(100)
    assert world.tables.writes == []


def test_rounds_are_paced_after_a_burst() -> None:
    world = World(*[listed(index) for index in range(1, 9)])
    world.run(100)
    assert [moment for moment, _ in world.primary.asked] == [0, 0, 0, 0, 0, 1, 2, 3, 4]


def test_failure_starts_over_after_waits_that_double() -> None:
    world = World(listed(17), *[Unavailable("no way") for _ in range(9)], listed(17))
    world.run(1000)
    assert world.primary.asked == [
        (0, 0),
        (0, 17),
        *((moment, 0) for moment in (1, 3, 7, 12, 17, 22, 27, 32, 37)),
        (37, 17),
    ]


def test_jitter_adds_at_most_a_tenth() -> None:
    world = World(*[Unavailable("no way") for _ in range(20)])
    world.rng = Random(7)
    world.run(2000)
    moments = [moment for moment, _ in world.primary.asked]
    waits = [later - earlier for earlier, later in pairwise(moments)]
    bases = [1, 2, 4, *[5] * 20]
    assert all(base <= wait <= 1.1 * base for base, wait in zip(bases, waits, strict=False))
    assert waits[:3] != [1, 2, 4]


def test_news_bring_the_next_round_forward() -> None:
    world = World(*[Unavailable("no way") for _ in range(6)])
    world.run(15, (14, lambda: world.duties.wake()))
    assert [moment for moment, _ in world.primary.asked] == [0, 1, 3, 7, 12, 14, 15]


def test_cut_off_secondary_asks_the_others_for_the_primarys_gateways() -> None:
    world = World(*[Unavailable("no way") for _ in range(4)], listed(17))
    world.known |= {"dc3"}
    moved = CheckServiceNode(
        service=NodeService(address="198.51.100.9", port=8443, meta={"consul-wan-federation": "1"})
    )
    world.primary.others["dc3"] = (
        FederationState(datacenter="dc1", mesh_gateways=(moved,), primary_modify_index=9),
    )
    seen: list[tuple[str, ...]] = []
    world.run(13, (3.5, lambda: seen.append(world.locator.candidates("dc1"))))
    assert world.primary.asked_others == [(3, "dc3"), (7, "dc3")]
    assert seen == [("198.51.100.9:8443",)]
    assert world.locator.candidates("dc1") == ()


def test_index_that_goes_back_reads_everything() -> None:
    world = World(listed(17, state("dc1", index=17)), listed(5, state("dc1", index=5)), listed(5))
    world.run(100)
    assert [index for _, index in world.primary.asked] == [0, 17, 0, 5]


def test_error_while_writing_starts_the_round_over() -> None:
    world = World(listed(17, state("dc1", index=17)), listed(17, state("dc1", index=17)))
    world.tables.failures = [NoLeader()]
    world.run(100)
    assert world.primary.asked == [(0, 0), (1, 0), (1, 17)]
    assert world.tables.states["dc1"].primary_modify_index == 17


def through_local(world: World) -> bool:
    """Whether the locator sends us to the primary through our own gateways."""
    return world.locator.candidates("dc1") == ("10.2.0.1:443",)


def located(*lists: Answer) -> World:
    world = World(*lists)
    meta = {"consul-wan-federation": "1"}
    service = msgspec.structs.replace(gateway("").service, meta=meta)  # type: ignore[type-var]
    local = msgspec.structs.replace(gateway("10.2.0.1"), service=service)
    world.tables.gateways = (local,)
    world.tables.states["dc2"] = FederationState(datacenter="dc2", mesh_gateways=(local,))
    world.locator.set_primary_gateways(["10.9.0.1:443"])
    return world


def during(world: World, moment: float) -> bool:
    seen: list[bool] = []
    world.run(moment + 1, (moment, lambda: seen.append(through_local(world))))
    return seen[0]


def test_three_failures_in_a_row_turn_to_the_primarys_gateways() -> None:
    failures = [Unavailable("no way") for _ in range(3)]
    assert during(located(*failures), 2.5)
    assert not during(located(*failures), 3.5)


def test_success_turns_back_to_our_own_gateways() -> None:
    own = state("dc2")
    world = located(*[Unavailable("no way") for _ in range(3)])
    own = msgspec.structs.replace(world.tables.states["dc2"], modify_index=3)
    world.primary.lists.append(listed(3, own))
    assert during(world, 8)


def test_feature_that_is_off_does_not_count_against_our_gateways() -> None:
    text = "rpc error making call: " + FEDERATION_STATES_DISABLED
    assert during(located(*[RemoteError(text) for _ in range(9)]), 200)


def test_duties_that_end_let_the_locator_forget_the_failures() -> None:
    world = located(*[Unavailable("no way") for _ in range(9)])
    world.run(20)
    assert through_local(world)


def entries(index: int, *found: ConfigEntry) -> IndexedGenericConfigEntries:
    return IndexedGenericConfigEntries(index=index, entries=found)


def service(name: str, protocol: str = "http", index: int = 9) -> ServiceConfigEntry:
    return ServiceConfigEntry(name=name, protocol=protocol, create_index=3, modify_index=index)


def test_config_entries_of_the_primary_are_copied_and_followed() -> None:
    world = World()
    old = service("old")
    world.tables.entries[old.kind, old.name] = old
    world.primary.entry_lists = [
        entries(17, service("api"), service("web")),
        entries(20, service("web", "grpc", index=20), service("api")),
    ]
    world.run(100)
    assert world.tables.entry_writes == [
        (0.0, DELETE, "service-defaults/old"),
        (0.0, COPY, "service-defaults/api"),
        (0.0, COPY, "service-defaults/web"),
        (0.0, COPY, "service-defaults/web"),
    ]
    assert world.primary.asked_entries == [(0.0, 0), (0.0, 17), (0.0, 20)]
    assert (world.duties.entry_replication.index, world.duties.replication.index) == (20, 0)


def test_config_entries_that_cannot_be_had_do_not_cut_us_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whether the way to the primary works, federation states tell."""
    world = World()
    failure = Unavailable("rpc: can't find service ConfigEntry.ListAll")
    world.primary.entry_lists = [failure] * 5
    world.run(30)
    assert not world.locator.is_cut_off
    assert [moment for moment, _ in world.primary.asked_entries] == [0, 1, 3, 7, 15]
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.getMessage() for record in warnings] == [
        f"replication of config entries failed, next try in 1 s: {failure}"
    ]


def test_way_to_the_primary_that_works_again_brings_config_entries_forward() -> None:
    world = World(*[Unavailable("no way") for _ in range(5)], listed(17))
    world.primary.entry_lists = [Unavailable("no way") for _ in range(5)]
    world.run(60)
    assert [moment for moment, _ in world.primary.asked] == [0, 1, 3, 7, 12, 17, 17]
    assert [moment for moment, _ in world.primary.asked_entries] == [0, 1, 3, 7, 15, 17]


def test_config_entry_that_cannot_be_written_starts_the_round_over() -> None:
    world = World()
    world.tables.entry_failures = [NoLeader()]
    world.primary.entry_lists = [entries(17, service("web"))] * 2
    world.run(100)
    assert world.primary.asked_entries == [(0.0, 0), (1.0, 0), (1.0, 17)]
    assert [name for _, name in world.tables.entries] == ["web"]


def test_primary_follows_nobodys_config_entries() -> None:
    world = World(dc="dc1")
    world.tables.entries["service-defaults", "web"] = service("web")
    world.run(100)
    assert world.primary.asked_entries == []
    assert len(world.tables.entries) == 1


# Prune ------------------------------------------------------------------------------------------


def pruning(*dcs: str) -> World:
    world = World(dc="dc1")
    world.tables.states = {dc: state(dc) for dc in ("dc1", *dcs)}
    return world


def test_records_of_departed_datacenters_go_after_an_hour() -> None:
    world = pruning("dc2", "dc3", "dc4")
    world.run(3601)
    assert world.tables.writes == [(3600, "delete", "dc3"), (3600, "delete", "dc4")]


def test_our_own_record_is_never_pruned() -> None:
    world = pruning()
    world.known = set()
    world.run(8000, (10, lambda: world.duties.datacenter_departed()))
    assert world.tables.writes == []


def test_departure_prunes_at_once_only_what_was_seen_to_leave() -> None:
    """dc3 has not come back yet after our restart: its record stays for the first hour."""
    world = pruning("dc2", "dc3")

    def leave() -> None:
        world.known = {"dc1"}
        world.duties.datacenter_departed()
        world.duties.wake()

    world.run(3601, (10, leave))
    assert world.tables.writes == [(10, "delete", "dc2"), (3600, "delete", "dc3")]


def test_datacenter_that_joined_later_and_left_is_pruned_at_once() -> None:
    world = pruning("dc2", "dc5")

    def join() -> None:
        world.known = {"dc1", "dc2", "dc5"}
        world.duties.wake()

    def leave() -> None:
        world.known = {"dc1", "dc2"}
        world.duties.datacenter_departed()

    world.run(60, (10, join), (20, leave))
    assert world.tables.writes == [(20, "delete", "dc5")]


def test_failed_prune_is_survived_and_stops_no_other() -> None:
    world = pruning("dc3", "dc4")
    world.tables.failures = [NoLeader()]
    world.run(7300)
    assert world.tables.writes == [
        (3600, "delete", "dc3"),
        (3600, "delete", "dc4"),
        (7200, "delete", "dc3"),
    ]
