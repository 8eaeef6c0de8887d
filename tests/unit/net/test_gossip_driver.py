"""Pools with their keys and files, in virtual time."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import ConfigError, InvalidRequest, Unavailable
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.conflict import ConflictLost
from isthmus.gossip.keys import KeyOperation
from isthmus.gossip.queries import QueryReceived, QueryResult, Question
from isthmus.gossip.roster import MemberFailed
from isthmus.gossip.serf import UserEventReceived
from isthmus.net.keyring_file import parse_keyring
from support.memory_files import MemoryFiles
from support.pool_drivers import Drivers, statuses
from support.virtual_loop import now, run_virtual, settle

# --- Queries and keys -----------------------------------------------------------------------------

KEY, FRESH = bytes(16), bytes(range(32))
RING = Path("/data/serf/local.keyring")


def kept_keys(drivers: Drivers, path: Path = RING) -> tuple[bytes, ...]:
    return parse_keyring(drivers.files.contents[path])


def test_query_is_answered_by_everyone_and_ends_early() -> None:
    async def story() -> None:
        drivers = Drivers()
        pools = await drivers.open_pool("a", "b", "c", tags={"role": "web"})
        begun = now()
        asking = asyncio.ensure_future(pools[0].query(Question(name="load", acks=True)))
        await drivers.until(lambda: all(received(drivers, name) for name in "abc"))
        for pool, name in zip(pools, "abc", strict=True):
            await pool.respond(received(drivers, name)[0], name.encode())
        result = await asking
        assert (sorted(result.acks), result.timed_out) == (["a", "b", "c"], False)
        assert result.responses == {"a": b"a", "b": b"b", "c": b"c"}
        assert now() - begun < 1
        await drivers.close()

    run_virtual(story())


def received(drivers: Drivers, name: str) -> list[Any]:
    return [e.query for e in drivers.events[name] if isinstance(e, QueryReceived)]


def test_query_that_nobody_answers_ends_with_its_time() -> None:
    async def story() -> None:
        drivers = Drivers()
        pools = await drivers.open_pool("a", "b")
        begun = now()
        result = await pools[0].query(Question(name="load", nodes=("b",)))
        assert result == QueryResult((), {}, timed_out=True)
        assert now() - begun == pytest.approx(3.2)
        await asyncio.sleep(1)
        with pytest.raises(InvalidRequest, match="response is past the deadline"):
            await pools[1].respond(received(drivers, "b")[0], b"late")
        await drivers.close()

    run_virtual(story())


def test_query_of_a_closed_pool_ends() -> None:
    async def story() -> None:
        drivers = Drivers()
        (pool,) = await drivers.open_pool("a")
        asking = asyncio.ensure_future(pool.query(Question(name="load")))
        await settle()
        await drivers.close()
        with pytest.raises(Unavailable, match="closed"):
            await asking

    run_virtual(story())


def test_keys_are_changed_without_a_break_and_kept() -> None:
    async def story() -> None:
        drivers = Drivers()
        pools = await drivers.open_pool("a", "b", "c", keys=(KEY,), keyring_file=RING)
        for operation, left in (
            (KeyOperation.INSTALL, (KEY, FRESH)),
            (KeyOperation.USE, (FRESH, KEY)),
        ):
            result = await pools[1].keys(operation, FRESH, 0)
            assert (result.error, result.member_count, result.messages) == ("", 3, {})
            assert kept_keys(drivers) == left
        result = await pools[2].keys(KeyOperation.REMOVE, KEY, 2)
        assert (result.error, kept_keys(drivers)) == ("", (FRESH,))
        listed = await pools[0].keys(KeyOperation.LIST, b"", 0)
        encoded = base64.b64encode(FRESH).decode()
        assert (listed.keys, listed.primary_keys) == ({encoded: 3}, {encoded: 3})
        late = await drivers.open("d", keys=(FRESH,))
        assert await drivers.join(late, pools[0]) == 1  # The stream is of the new key, too.
        await asyncio.sleep(60)
        assert {status for pool in pools for status in statuses(pool).values()} == {"alive"}
        await drivers.close()

    run_virtual(story())


def test_keys_that_were_changed_count_at_the_next_start() -> None:
    async def story() -> None:
        drivers = Drivers()
        first = await drivers.open("a", keys=(KEY,), keyring_file=RING)
        await first.keys(KeyOperation.INSTALL, FRESH, 0)
        await first.keys(KeyOperation.USE, FRESH, 0)
        await first.close()
        again = await drivers.open("a", keys=(KEY,), keyring_file=RING)
        listed = await again.keys(KeyOperation.LIST, b"", 0)
        assert list(listed.primary_keys) == [base64.b64encode(FRESH).decode()]
        await drivers.close()

    run_virtual(story())


def test_changes_that_follow_each_other_are_all_kept_by_a_slow_disk() -> None:
    async def story() -> None:
        drivers = Drivers()
        drivers.files = SlowFiles()
        (pool,) = await drivers.open_pool("a", keys=(KEY,), keyring_file=RING)
        changes = [
            asyncio.ensure_future(pool.keys(KeyOperation.INSTALL, FRESH, 0)),
            asyncio.ensure_future(pool.keys(KeyOperation.USE, FRESH, 0)),
            asyncio.ensure_future(pool.keys(KeyOperation.REMOVE, KEY, 0)),
        ]
        await settle()
        await pool.close()  # While the first one is still being written.
        assert kept_keys(drivers) == (FRESH,)
        for change in changes:
            with pytest.raises(Unavailable, match="closed"):
                await change

    run_virtual(story())


class SlowFiles(MemoryFiles):
    """A disk that takes its time."""

    async def replace(self, path: Path, data: bytes) -> None:
        await asyncio.sleep(0.2)
        await super().replace(path, data)

    async def append(self, path: Path, data: bytes) -> None:
        await asyncio.sleep(0.2)
        await super().append(path, data)


def test_change_that_can_not_be_kept_is_reported_by_its_member() -> None:
    async def story() -> None:
        drivers = Drivers()
        first, _ = await drivers.open_pool("a", "b", keys=(KEY,))
        third = await drivers.open("c", keys=(KEY,), keyring_file=RING)
        await drivers.join(third, first)
        await asyncio.sleep(2)
        drivers.files.problem = OSError(28, "No space left on device")
        result = await first.keys(KeyOperation.INSTALL, FRESH, 0)
        assert result.error == "1/3 nodes reported failure"
        why = "the keyring file was not written: No space left on device"
        assert result.messages == {"c": why}
        await drivers.close()

    run_virtual(story())


def test_pool_without_encryption_says_so() -> None:
    async def story() -> None:
        drivers = Drivers()
        first, _ = await drivers.open_pool("a", "b")
        result = await first.keys(KeyOperation.INSTALL, FRESH, 0)
        why = "No keyring to modify (encryption not enabled)"
        assert (result.error_count, result.messages) == (2, {"a": why, "b": why})
        result = await first.keys(KeyOperation.LIST, b"", 0)
        why = "Keyring is empty (encryption not enabled)"
        assert result.messages == {"a": why, "b": why}
        await drivers.close()

    run_virtual(story())


def test_broken_keyring_file_keeps_the_pool_from_starting() -> None:
    async def story() -> None:
        drivers = Drivers()
        drivers.files.contents[RING] = b"["
        with pytest.raises(ConfigError, match=r"local\.keyring: not a keyring"):
            await drivers.open("a", port=8301, keyring_file=RING)
        assert drivers.network.listeners == {}

    run_virtual(story())


# --- Snapshot and rejoin --------------------------------------------------------------------------

SNAPSHOT = Path("/data/serf/local.snapshot")


def snapshot_of(name: str) -> Path:
    return SNAPSHOT.with_name(f"{name}.snapshot")


def test_restarted_member_finds_back_by_itself() -> None:
    async def story() -> None:
        drivers = Drivers()
        _, _, third = await drivers.open_pool("a", "b", "c", snapshot_file=snapshot_of("c"))
        await asyncio.sleep(1)
        await third.close()
        again = await drivers.open("c", port=third.address[1], snapshot_file=snapshot_of("c"))
        await drivers.until(lambda: statuses(again) == dict.fromkeys("cab", "alive"), within=1)
        await drivers.close()

    run_virtual(story())


def test_members_that_are_gone_do_not_keep_us_from_the_others() -> None:
    async def story() -> None:
        drivers = Drivers()
        first, second, third = await drivers.open_pool("a", "b", "c", snapshot_file=SNAPSHOT)
        await third.close()
        await second.close()
        drivers.files.contents[SNAPSHOT] = "".join(
            f"alive: {pool.config.name} {pool.address[0]}:{pool.address[1]}\n"
            for pool in (first, second, third)
        ).encode()
        again = await drivers.open("c", port=third.address[1], snapshot_file=SNAPSHOT)
        await drivers.until(lambda: statuses(again).get("a") == "alive", within=10)
        await drivers.close()

    run_virtual(story())


def test_lone_member_goes_on_trying() -> None:
    async def story() -> None:
        drivers = Drivers()
        first, second = await drivers.open_pool("a", "b", snapshot_file=SNAPSHOT)
        await drivers.close()
        path = snapshot_of("b")
        host, port = first.address
        drivers.files.contents[path] = f"alive: a {host}:{port}\n".encode()
        again = await drivers.open("b", port=second.address[1], snapshot_file=path)
        await asyncio.sleep(50)
        assert statuses(again) == {"b": "alive"}
        await drivers.open("a", port=port)
        await drivers.until(lambda: statuses(again) == {"a": "alive", "b": "alive"}, within=31)
        await drivers.close()

    run_virtual(story())


@pytest.mark.parametrize("rejoin", [False, True])
def test_member_that_left_comes_back_only_if_it_is_told_to(rejoin: bool) -> None:
    async def story() -> None:
        drivers = Drivers()
        _, second = await drivers.open_pool("a", "b", snapshot_file=SNAPSHOT)
        path = snapshot_of("b")
        third = await drivers.open("c", snapshot_file=path)
        await drivers.join(third, second)
        await third.leave()
        await third.close()
        assert drivers.files.contents[path].endswith(b"leave\n")
        again = await drivers.open("c", snapshot_file=path, rejoin_after_leave=rejoin)
        await asyncio.sleep(2)
        assert ("a" in statuses(again)) is rejoin
        await drivers.close()

    run_virtual(story())


def test_lamport_times_go_on_and_old_events_are_not_told_again() -> None:
    async def story() -> None:
        drivers = Drivers()
        first = await drivers.open("a")
        second = await drivers.open("b", snapshot_file=SNAPSHOT)
        await drivers.join(second, first)
        for name in ("one", "two"):
            await first.user_event(name, b"", coalesce=False)
        await drivers.until(lambda: len(user_events(drivers, "b")) == 2)
        await second.close()
        await first.user_event("three", b"", coalesce=False)
        again = await drivers.open("b", port=second.address[1], snapshot_file=SNAPSHOT)
        await drivers.until(lambda: bool(user_events(drivers, "b")), within=1)
        assert user_events(drivers, "b") == ["three"]
        assert int((await again.stats())["event_time"]) == 4
        await drivers.close()

    run_virtual(story())


def user_events(drivers: Drivers, name: str) -> list[str]:
    return [e.name for e in drivers.events[name] if isinstance(e, UserEventReceived)]


def test_pool_that_is_closed_while_it_tries_ends_quietly() -> None:
    async def story() -> None:
        troubles: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, it: troubles.append(it))
        drivers = Drivers(replace(GossipConfig.lan(), reconnect_interval=0.1))
        drivers.files = SlowFiles()
        drivers.files.contents[SNAPSHOT] = b"torn\nalive: n0 127.0.0.1:9\n"
        pool = await drivers.open("a", snapshot_file=SNAPSHOT)
        await asyncio.sleep(0.25)
        await pool.user_event("last", b"", coalesce=False)
        await pool.close()  # The disk takes longer than the wait for the next round.
        assert troubles == []
        written = drivers.files.contents[SNAPSHOT]
        assert written.startswith(b"alive: n0 127.0.0.1:9\n")
        assert written.endswith(b"event-clock: 1\n")

    run_virtual(story())


def test_held_pool_finds_back_once_it_is_released() -> None:
    """A WAN pool is held until a gateway is known; the wait for the next round is cut short."""

    async def story() -> None:
        drivers = Drivers()
        first, second = await drivers.open_pool("a", "b", snapshot_file=SNAPSHOT)
        await drivers.close()
        drivers.files.contents[SNAPSHOT] = b"alive: a %s:%d\n" % (
            first.address[0].encode(),
            first.address[1],
        )
        await drivers.open("a", port=first.address[1])
        again = await drivers.open("b", port=second.address[1], snapshot_file=SNAPSHOT)
        again.hold()
        await asyncio.sleep(7)
        assert statuses(again) == {"b": "alive"}
        again.release()
        await drivers.until(lambda: "a" in statuses(again), within=1)
        await drivers.close()

    run_virtual(story())


# --- Conflicts of names ---------------------------------------------------------------------------


@pytest.mark.parametrize("resolve", [True, False])
def test_newcomer_that_takes_a_name_stops_and_says_so(resolve: bool) -> None:
    """protocol/gossip.md §13.7."""

    async def story() -> None:
        drivers = Drivers()
        pools = await drivers.open_pool("a", "b", "c", "d", resolve_conflicts=resolve)
        kept = drivers.events.pop("b")
        twin = await drivers.open("b", resolve_conflicts=resolve)
        await drivers.join(twin, pools[0])
        await asyncio.sleep(40)
        lost = [e for e in drivers.events["b"] if isinstance(e, ConflictLost)]
        if resolve:
            assert lost == [ConflictLost("b", matching=0, answers=3)]
            with pytest.raises(Unavailable, match="closed"):
                await twin.stats()
            assert twin.address not in drivers.network.listeners
        else:
            assert lost == []
            assert (await twin.stats())["members"] == "4"
        assert not [e for e in kept if isinstance(e, ConflictLost)]
        assert statuses(pools[0]) == dict.fromkeys("abcd", "alive")
        assert next(m for m in pools[0].members if m.name == "b").port == pools[1].address[1]
        await drivers.close()

    run_virtual(story())


# --- Stalls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 100])
def test_process_that_stood_still_for_ten_minutes_recovers_by_itself(room: int) -> None:
    async def story() -> None:
        drivers = Drivers()
        pools = await drivers.open_pool("a", "b", "c", "d")
        everyone = dict.fromkeys("abcd", "alive")
        stall = asyncio.ensure_future(drivers.stall(pools[1], 600, room=room))
        await asyncio.sleep(100)
        assert statuses(pools[0]) == everyone | {"b": "failed"}
        await stall
        await drivers.until(lambda: all(statuses(pool) == everyone for pool in pools), within=60)
        await asyncio.sleep(60)
        for name in "abcd":
            failed = [e.member.name for e in drivers.events[name] if isinstance(e, MemberFailed)]
            assert failed == ([] if name == "b" else ["b"])
        assert pools[1]._core.memberlist.table.me.incarnation > 1  # It refuted.
        await drivers.close()

    run_virtual(story())
