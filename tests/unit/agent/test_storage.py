"""Forming and joining a storage cluster, and a crash at every step of that."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from isthmus.agent.storage import OVERTAKEN_INTERVAL, TORN_INTERVAL
from isthmus.agent.storage_files import RECOVER_FILE
from isthmus.errors import Unavailable
from isthmus.server.formation import PROMISE_TIME
from support.storage_world import Machine, StorageWorld
from support.virtual_loop import run_virtual

WRITES_MAX = 20
"""More than a server makes on its way."""


def play(folder: Path, act: Callable[[StorageWorld], Awaitable[None]], count: int = 3) -> None:
    async def whole() -> None:
        world = StorageWorld(count, folder)
        try:
            await act(world)
        finally:
            await world.stop()

    run_virtual(whole())


async def start(*machines: Machine) -> None:
    for machine in machines:
        await machine.start()


def names(world: StorageWorld, token: str) -> set[str]:
    return {member.name for member in world.clusters[token].members.values()}


def test_servers_form_one_cluster_and_forget_what_was_secret(tmp_path: Path) -> None:
    async def act(world: StorageWorld) -> None:
        await start(*world.machines)
        token = await world.until_formed()
        assert names(world, token) == {"id-1", "id-2", "id-3"}
        await asyncio.sleep(5)
        for machine in world.machines:
            kept = b"".join(machine.files.contents.values())
            assert b"ca_key" not in kept
        assert b"m/storage-ca" in world.clusters[token].keys

    play(tmp_path, act)


def test_nothing_is_formed_before_all_that_are_expected_are_there(tmp_path: Path) -> None:
    async def act(world: StorageWorld) -> None:
        first, second, third = world.machines
        await start(first, second)
        await asyncio.sleep(200)
        assert not world.clusters
        await start(third)
        await world.until_formed()

    play(tmp_path, act)


def test_server_that_comes_later_joins(tmp_path: Path) -> None:
    async def act(world: StorageWorld) -> None:
        *first, late = world.machines
        await start(*first)
        token = await world.until_formed(*first)
        await late.start(expect=0)
        assert await world.until_formed(late) == token
        assert names(world, token) == {"id-1", "id-2", "id-3", "id-4"}

    play(tmp_path, act, count=4)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_crash_at_any_write_while_forming(tmp_path: Path, victim: int, before: bool) -> None:
    """After the restart there is one cluster, of all."""

    def crash_at(number: int) -> bool:
        reached = False

        async def act(world: StorageWorld) -> None:
            nonlocal reached
            machine = world.machines[victim]
            machine.files.crash_at, machine.files.before = number, before
            await start(*world.machines)
            try:
                async with asyncio.timeout(20):
                    await machine.files.crashed.wait()
            except TimeoutError:
                return
            reached = True
            await machine.kill()
            await asyncio.sleep(2)
            await machine.start()
            token = await world.until_formed()
            assert names(world, token) == {"id-1", "id-2", "id-3"}
            await asyncio.sleep(5)
            assert b"m/storage-ca" in world.clusters[token].keys

        play(tmp_path / str(number), act)
        return reached

    steps = [number for number in range(1, WRITES_MAX) if crash_at(number)]
    assert steps == list(range(1, len(steps) + 1))
    assert 3 <= len(steps) < WRITES_MAX - 1


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_crash_at_any_write_while_joining(tmp_path: Path, before: bool) -> None:
    def crash_at(number: int) -> bool:
        reached = False

        async def act(world: StorageWorld) -> None:
            nonlocal reached
            *first, late = world.machines
            await start(*first)
            token = await world.until_formed(*first)
            late.files.crash_at, late.files.before = number, before
            await late.start(expect=0)
            try:
                async with asyncio.timeout(20):
                    await late.files.crashed.wait()
            except TimeoutError:
                return
            reached = True
            await late.kill()
            await late.start(expect=0)
            assert await world.until_formed() == token
            assert names(world, token) == {machine.server_id for machine in world.machines}

        play(tmp_path / str(number), act, count=4)
        return reached

    steps = [number for number in range(1, WRITES_MAX) if crash_at(number)]
    assert steps == list(range(1, len(steps) + 1))
    assert steps


def test_eighth_server_is_refused_and_one_of_seven_may_be_replaced(tmp_path: Path) -> None:
    async def act(world: StorageWorld) -> None:
        *seven, eighth = world.machines
        for machine in seven:
            await machine.start(expect=7)
        token = await world.until_formed(*seven)
        await eighth.start(expect=0)
        await asyncio.sleep(30)
        assert not eighth.token
        machine = seven[3]
        await machine.kill()
        machine.process.data = None
        await machine.start(expect=7)
        assert await world.until_formed(*seven) == token
        assert names(world, token) == {each.server_id for each in seven}

    play(tmp_path, act, count=8)


def test_member_whose_data_is_gone_joins_by_a_new_number(tmp_path: Path) -> None:
    async def act(world: StorageWorld) -> None:
        await start(*world.machines)
        token = await world.until_formed()
        machine = world.machines[1]
        await machine.kill()
        number = machine.number
        machine.process.data = None
        await machine.start()
        assert await world.until_formed() == token
        assert machine.number != number
        assert names(world, token) == {"id-1", "id-2", "id-3"}

    play(tmp_path, act)


def test_server_that_leaves_puts_its_data_aside_and_may_come_back(tmp_path: Path) -> None:
    async def act(world: StorageWorld) -> None:
        await start(*world.machines)
        token = await world.until_formed()
        machine = world.machines[2]
        assert machine.keeper is not None
        del world.clusters[token].members[machine.number]
        await machine.keeper.leave()
        assert not machine.process.has_data
        assert not machine.keeper.is_member
        await machine.kill()
        await machine.start()
        assert await world.until_formed() == token
        assert names(world, token) == {"id-1", "id-2", "id-3"}

    play(tmp_path, act)


def test_server_that_crashed_and_was_removed_before_its_first_start_asks_again(
    tmp_path: Path,
) -> None:
    async def act(world: StorageWorld) -> None:
        *first, late = world.machines
        await start(*first)
        token = await world.until_formed(*first)
        late.files.crash_at = 1  # It has been let in, and knows it.
        await late.start(expect=0)
        await late.files.crashed.wait()
        await late.kill()
        members = world.clusters[token].members
        (unstarted,) = [member.number for member in members.values() if not member.name]
        del members[unstarted]
        await late.start(expect=0)
        assert await world.until_formed() == token

    play(tmp_path, act, count=4)


@pytest.mark.parametrize("after", [0.0, 3.0], ids=["before it begins", "while it waits"])
def test_member_that_was_removed_while_its_server_starts_joins_once(
    tmp_path: Path, after: float
) -> None:
    async def act(world: StorageWorld) -> None:
        await start(*world.machines)
        token = await world.until_formed()
        machine = world.machines[2]
        await machine.kill()
        number = machine.number
        del world.clusters[token].members[number]
        machine.process.starts = 0
        await machine.start()
        assert machine.keeper is not None
        if after:
            await asyncio.sleep(after)
        await machine.keeper.begin_anew()
        assert await world.until_formed() == token
        assert machine.number != number
        assert machine.process.starts == (2 if after else 1)
        await asyncio.sleep(60)
        assert names(world, token) == {"id-1", "id-2", "id-3"}

    play(tmp_path, act)


def test_server_that_was_let_in_and_cannot_begin_asks_again(tmp_path: Path) -> None:
    """Etcd does not start if others came or went since it was told who they are."""

    async def act(world: StorageWorld) -> None:
        *first, late = world.machines
        await start(*first)
        token = await world.until_formed(*first)
        late.process.refusals = 2
        await late.start(expect=0)
        assert await world.until_formed(late) == token
        assert late.process.starts == 3
        assert names(world, token) == {"id-1", "id-2", "id-3", "id-4"}

    play(tmp_path, act, count=4)


def test_coordinator_that_was_away_for_too_long_joins_what_others_formed(tmp_path: Path) -> None:
    async def act(world: StorageWorld) -> None:
        coordinator, *others, spare = world.machines
        coordinator.files.crash_at = 2  # Its promise is on the disk, and now its plan.
        await start(coordinator, *others)
        async with asyncio.timeout(20):
            await coordinator.files.crashed.wait()
        await coordinator.kill()  # All have promised, and nobody was told to start.
        assert any(path.name == "plan.json" for path in coordinator.files.contents)
        await spare.start()
        token = await world.until_formed(*others, spare)
        assert asyncio.get_running_loop().time() > PROMISE_TIME
        await coordinator.start()
        assert await world.until_formed() == token
        assert asyncio.get_running_loop().time() < PROMISE_TIME + 3 * OVERTAKEN_INTERVAL + 10
        assert names(world, token) == {machine.server_id for machine in world.machines}

    play(tmp_path, act, count=4)


def test_old_promise_makes_no_second_cluster_beside_the_one_that_was_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of three start and are cut off; the third and two new ones are three as well."""

    async def act(world: StorageWorld) -> None:
        first, second, third, *new = world.machines

        async def cut_when_planned() -> None:
            while not any(  # noqa: ASYNC110 (virtual time)
                path.name == "plan.json" for path in first.files.contents
            ):
                await asyncio.sleep(0.0005)
            world.apart = {first, second}

        await start(first, second, third)
        await cut_when_planned()
        token = await world.until_formed(first, second)
        assert third.keeper is not None
        assert not third.keeper.is_member
        await start(*new)
        await asyncio.sleep(20 * PROMISE_TIME)
        assert set(world.clusters) == {token}
        assert "promise.json" in caplog.text
        world.apart = set()
        assert await world.until_formed() == token
        assert names(world, token) == {machine.server_id for machine in world.machines}

    play(tmp_path, act, count=5)


@pytest.mark.parametrize("seed", range(12))
def test_one_cluster_at_most_whatever_is_cut_and_crashes_while_forming(
    tmp_path: Path, seed: int
) -> None:
    """Five servers, three expected; afterwards all are in one."""

    async def act(world: StorageWorld) -> None:
        rng = Random(seed)
        await start(*world.machines)
        for _ in range(12):
            world.apart = set(rng.sample(world.machines, rng.randrange(4)))
            if rng.random() < 0.5:
                machine = rng.choice(world.machines)
                await machine.kill()
                await asyncio.sleep(rng.choice([0.1, 1.0, PROMISE_TIME]))
                await machine.start()
            await asyncio.sleep(rng.choice([0.003, 0.01, 0.6, 2.0, 1.5 * PROMISE_TIME]))
        world.apart = set()
        token = await world.until_formed(timeout=3600)
        assert names(world, token) == {machine.server_id for machine in world.machines}
        assert [each.token for each in world.clusters.values() if world.has_majority(each)] == [
            token
        ]

    play(tmp_path, act, count=5)


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged for an operator since the last call."""
    found = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
    caplog.clear()
    return found


def test_two_clusters_in_one_pool_are_told_of_until_one_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Twice the servers that were expected, cut in two from the beginning."""

    async def act(world: StorageWorld) -> None:
        *six, late = world.machines
        halves = six[:3], six[3:]
        world.apart = set(halves[1])
        await start(*six)
        tokens = [await world.until_formed(*half) for half in halves]
        assert tokens[0] != tokens[1]
        await asyncio.sleep(3 * TORN_INTERVAL)
        assert not errors_of(caplog)
        world.apart = set()
        await late.start(expect=0)
        await asyncio.sleep(6 * TORN_INTERVAL)
        said = errors_of(caplog)
        assert all("s1, s2, s3 and s4, s5, s6" in text for text in said)
        assert all("move the folder storage" in text for text in said)
        joining = sum("joins none" in text for text in said)
        assert joining >= 6
        assert len(said) - joining >= 6 * 4
        assert late.number == 0
        for machine in halves[1]:
            await machine.kill()
            machine.empty()
        await start(*halves[1])
        assert await world.until_formed() == tokens[0]
        await asyncio.sleep(TORN_INTERVAL)
        errors_of(caplog)
        await asyncio.sleep(3 * TORN_INTERVAL)
        assert not errors_of(caplog)

    play(tmp_path, act, count=7)


def test_member_that_was_made_to_go_on_alone_beside_others_that_live_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(world: StorageWorld) -> None:
        await start(*world.machines)
        token = await world.until_formed()
        survivor, *others = world.machines
        for machine in world.machines:
            await machine.kill()
        (folder,) = {path.parent for path in survivor.files.contents}
        survivor.files.contents[folder / RECOVER_FILE] = b'{"wanted": true}'
        survivor.move("10.0.0.11")
        await survivor.start()
        alone = await world.until_formed(survivor)
        assert alone != token
        (member,) = world.clusters[alone].members.values()
        assert member.peer_url == "https://10.0.0.11:8304"
        others[0].empty()
        await others[0].start()  # As the guide says.
        assert await world.until_formed(survivor, others[0]) == alone
        await asyncio.sleep(3 * TORN_INTERVAL)
        assert not errors_of(caplog)
        await others[1].start()  # It still has its data.
        await asyncio.sleep(3 * TORN_INTERVAL)
        assert "s1, s2 and s3" in errors_of(caplog)[0]
        await survivor.kill()
        await survivor.start()
        assert await world.until_formed(survivor, others[0]) == alone

    play(tmp_path, act)


def test_server_that_moved_has_another_one_say_so_before_its_member_starts(tmp_path: Path) -> None:
    async def act(world: StorageWorld) -> None:
        await start(*world.machines)
        token = await world.until_formed()
        machine = world.machines[2]
        await machine.kill()
        machine.move("10.0.0.33")
        await machine.start()
        assert await world.until_formed() == token
        urls = {member.name: member.peer_url for member in world.clusters[token].members.values()}
        assert urls["id-3"] == "https://10.0.0.33:8304"

    play(tmp_path, act)


def test_damaged_file_is_named(tmp_path: Path) -> None:
    async def act(world: StorageWorld) -> None:
        await start(*world.machines)
        await world.until_formed()
        machine = world.machines[0]
        await machine.kill()
        (path,) = [path for path in machine.files.contents if path.name == "cluster.json"]
        machine.files.contents[path] = b"{"
        with pytest.raises(Unavailable, match=r"cluster\.json is damaged"):
            await machine.start()
        machine.keeper = None

    play(tmp_path, act)
