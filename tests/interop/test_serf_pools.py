"""Mixed pools of five, two serf agents and three of ours: they agree on members and messages."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import InvalidRequest
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keys import KeyOperation
from isthmus.net.gossip import (
    GossipThread,
    MemberFailed,
    Pool,
    PoolConfig,
    QueryReceived,
    UserEventReceived,
)
from isthmus.net.sockets import SocketNetwork
from support.serf_agent import SERF, Observer, SerfAgent, eventually

KEY, SECOND_KEY, THIRD_KEY = bytes(range(32)), bytes(range(32, 64)), bytes(range(16))
OURS = ("ours0", "ours1", "ours2")
REAL = ("real0", "real1")
NAMES = {*OURS, *REAL}
ALIVE = dict.fromkeys(sorted(NAMES), "alive")
FAILED_WITHIN = 20.0
"""Detection with the LAN profile takes 4 to 8 s."""
ANSWERED_WITHIN = 45.0
"""For a query that is asked again until everybody answered, and for events, which a push/pull
brings within 30 s to a member whom gossip missed."""

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(180),
    pytest.mark.skipif(SERF is None, reason="no serf agent here: apt-get install serf"),
]


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


class Ours:
    """A member of ours that can be stopped and started again."""

    def __init__(self, thread: GossipThread, name: str, directory: Path, keys: tuple[bytes, ...]):
        self._thread, self.name, self._keys = thread, name, keys
        self._directory = directory
        self._port = 0
        self.observer = Observer()
        self.pool: Pool

    async def start(self) -> None:
        """Open its pool, at the address that it had before."""
        self.pool = await self._thread.open_pool(
            PoolConfig(
                name=self.name,
                bind_host="127.0.0.1",
                bind_port=self._port,
                tags={"side": "ours"},
                gossip=GossipConfig.lan(),
                keys=self._keys,
                keyring_file=self._directory / f"{self.name}.keyring" if self._keys else None,
                snapshot_file=self._directory / f"{self.name}.snapshot",
            ),
            on_event=self.observer,
        )
        self._port = self.pool.address[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def statuses(self) -> dict[str, str]:
        """As serf's command line words them."""
        return {member.name: member.status.name.lower() for member in self.pool.members()}

    async def sees(self, name: str, status: str, *, within: float = FAILED_WITHIN) -> None:
        async def seen() -> bool:
            return self.statuses().get(name, "") == status

        await eventually(seen, within=within)


class Mixed:
    """The pool."""

    def __init__(self, thread: GossipThread, directory: Path, keys: tuple[bytes, ...]) -> None:
        self.ours = [Ours(thread, name, directory, keys) for name in OURS]
        self.real: list[SerfAgent] = []
        for name in REAL:
            options = [
                "-tag=side=real",
                f"-snapshot={directory / f'{name}.snapshot'}",
                "-event-handler=query:load=echo low at $SERF_SELF_NAME",
            ]
            if keys:
                keyring = directory / f"{name}.keyring"
                keyring.write_text(json.dumps([text(key) for key in keys]))
                options.append(f"-keyring-file={keyring}")
            self.real.append(SerfAgent(name, directory / f"{name}.log", *options, profile="lan"))

    async def agree(
        self, statuses: dict[str, str], *, among: Iterable[str] = NAMES, within: float = 30.0
    ) -> None:
        """Wait until these members see exactly this."""

        async def agreed() -> bool:
            views = [ours.statuses() for ours in self.ours if ours.name in among]
            views += [await real.statuses() for real in self.real if real.name in among]
            return all(view == statuses for view in views)

        try:
            await eventually(agreed, within=within)
        except TimeoutError:
            views = {ours.name: ours.statuses() for ours in self.ours}
            raise AssertionError(f"they see {views}, not {statuses}") from None

    def nobody_failed(self) -> None:
        """Check that no member ever took another for failed."""
        for ours in self.ours:
            assert ours.observer.of(MemberFailed) == []
        for real in self.real:
            assert "EventMemberFailed" not in real.log


@asynccontextmanager
async def mixed_pool(directory: Path, *keys: bytes) -> AsyncIterator[Mixed]:
    """Five members that know each other: half of them joined ours, half a serf agent."""
    thread = GossipThread(SocketNetwork())
    thread.start()
    mixed = Mixed(thread, directory, keys)
    try:
        first = mixed.ours[0]
        await first.start()
        for real in mixed.real:
            await real.start(f"-join={first.address}")
        for ours in mixed.ours[1:]:
            await ours.start()
            await ours.pool.join([f"real0/{mixed.real[0].address}"])
        await mixed.agree(ALIVE)
        yield mixed
    finally:
        for real in mixed.real:
            if real.process is not None:
                await real.kill()
        await thread.stop()
    assert thread.failure is None


async def answer_queries(ours: Ours) -> None:
    """Let a member of ours answer all queries, as serf's event handlers do."""
    answered = 0
    while True:
        queries = ours.observer.of(QueryReceived)
        for asked in queries[answered:]:
            with suppress(InvalidRequest):  # Its time may be over.
                await ours.pool.respond(asked.query, f"low at {ours.name}".encode())
        answered = len(queries)
        await ours.observer.changes()


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["plain", "encrypted"])
async def test_mixed_pool_lives_together(tmp_path: Path, keys: tuple[bytes, ...]) -> None:
    """Views, tags, events, queries and coordinates; then members fail, return and leave."""
    async with mixed_pool(tmp_path, *keys) as mixed:
        await tags_agree(mixed)
        await events_cross(mixed)
        await queries_cross(mixed)
        await coordinates_cross(mixed)
        mixed.nobody_failed()
        async with asyncio.TaskGroup() as group:
            group.create_task(real_fails_and_returns(mixed))
            group.create_task(ours_fails_and_returns(mixed))
        await mixed.agree(ALIVE)
        await leave_in_turn(mixed)


async def tags_agree(mixed: Mixed) -> None:
    expected = {name: {"side": name[:4]} for name in NAMES}
    for ours in mixed.ours:
        assert {member.name: member.tags for member in ours.pool.members()} == expected
    for real in mixed.real:
        members = await real.members()
        assert {name: member["tags"] for name, member in members.items()} == expected
        addresses = {name: member["addr"] for name, member in members.items()}
        expected_addresses = {ours.name: ours.address for ours in mixed.ours}
        assert addresses == expected_addresses | {each.name: each.address for each in mixed.real}


async def events_cross(mixed: Mixed) -> None:
    await mixed.real[0].command("event", "-coalesce=false", "from-real", "seven")
    await mixed.ours[2].pool.user_event("from-ours", b"eight")
    for ours in mixed.ours:
        for name, payload in (("from-real", b"seven"), ("from-ours", b"eight")):
            assert (await ours.observer.wait_for(UserEventReceived, name)).payload == payload
    for real in mixed.real:
        for name in ("from-real", "from-ours"):
            await real.logs(f"Received event: user-event: {name}", within=ANSWERED_WITHIN)
    await asyncio.sleep(1)  # No duplicate may follow.
    for ours in mixed.ours:
        assert len(ours.observer.of(UserEventReceived)) == 2


async def queries_cross(mixed: Mixed) -> None:
    """With and without filters and relays; everyone who is meant answers, and acknowledges.

    In a pool of five a query misses a member about once in 200 times: it is asked again.
    """
    async with asyncio.TaskGroup() as group:
        answering = [group.create_task(answer_queries(ours)) for ours in mixed.ours]
        await eventually(partial(_serf_asks_all, mixed.real[0]), within=ANSWERED_WITHIN)
        await eventually(partial(_serf_asks_serf, mixed.real[1]), within=ANSWERED_WITHIN)
        ours = mixed.ours[1]
        await eventually(partial(_we_ask_all, ours), within=ANSWERED_WITHIN)
        some, one = {"tags": {"side": "al$"}}, {"nodes": ["real1"]}
        await eventually(partial(_we_ask, ours, set(REAL), some), within=ANSWERED_WITHIN)
        await eventually(partial(_we_ask, ours, {"real1"}, one), within=ANSWERED_WITHIN)
        for each in mixed.ours:
            payloads = {asked.query.payload for asked in each.observer.of(QueryReceived)}
            assert payloads == {b"?"}, "asked what was meant for others"
        for task in answering:
            task.cancel()


async def _serf_asks_all(real: SerfAgent) -> bool:
    output = await real.command("query", "-timeout=4s", "-relay-factor=2", "load", "?")
    return all(
        f"Response from '{name}': low at {name}" in output and f"Ack from '{name}'" in output
        for name in NAMES
    )


async def _serf_asks_serf(real: SerfAgent) -> bool:
    output = await real.command("query", "-timeout=1s", "-tag=side=^re", "load", "filtered")
    answers = set(re.findall(r"Response from '(\w+)'", output))
    assert answers <= set(REAL)
    return answers == set(REAL)


async def _we_ask_all(ours: Ours) -> bool:
    result = await ours.pool.query("load", b"?", relay_factor=2, acks=True, timeout=4)
    answers = {name: answer.strip().decode() for name, answer in result.responses.items()}
    expected = {name: f"low at {name}" for name in NAMES}
    assert answers.items() <= expected.items()
    return (answers, set(result.acks), result.timed_out) == (expected, NAMES, False)


async def _we_ask(ours: Ours, names: set[str], filters: dict[str, Any]) -> bool:
    result = await ours.pool.query("load", b"filtered", timeout=2, **filters)
    assert set(result.responses) <= names
    return set(result.responses) == names


async def coordinates_cross(mixed: Mixed) -> None:
    """``serf rtt``: the agent knows a coordinate of ours, learnt from acks, and we know its."""

    async def known() -> bool:
        status, output = await mixed.real[0].try_command("rtt", "real0", "ours0")
        return status == 0 and "rtt:" in output

    await eventually(known, within=30)
    distance = re.search(r"rtt: ([\d.]+) ms", await mixed.real[0].command("rtt", "real0", "ours0"))
    assert distance is not None
    assert 0 < float(distance[1]) < 100  # All of it is one machine.

    async def knows_real() -> bool:
        return set(REAL) <= set(mixed.ours[0].pool.coordinates())

    await eventually(knows_real, within=30)


async def real_fails_and_returns(mixed: Mixed) -> None:
    """A killed serf agent is failed everywhere, and comes back by its snapshot."""
    victim = mixed.real[1]
    await victim.kill()
    for ours in mixed.ours[:2]:
        await ours.sees("real1", "failed")
    await mixed.real[0].sees("real1", "failed", within=FAILED_WITHIN)
    await victim.start()
    for ours in mixed.ours[:2]:
        await ours.sees("real1", "alive")


async def ours_fails_and_returns(mixed: Mixed) -> None:
    """The same with one of ours."""
    victim = mixed.ours[2]
    await victim.pool.close()  # Says nothing to anybody.
    await mixed.real[0].sees("ours2", "failed", within=FAILED_WITHIN)
    for ours in mixed.ours[:2]:
        await ours.sees("ours2", "failed")
    await victim.start()
    await mixed.real[0].sees("ours2", "alive", within=FAILED_WITHIN)


async def leave_in_turn(mixed: Mixed) -> None:
    """Graceful leaves are `left`, also when the agent has been failed before and is forced out."""
    await mixed.ours[2].pool.leave()
    await mixed.ours[2].pool.close()
    others = NAMES - {"ours2"}
    await mixed.agree(ALIVE | {"ours2": "left"}, among=others)
    await mixed.real[1].command("leave")
    await mixed.agree(ALIVE | {"ours2": "left", "real1": "left"}, among=others - {"real1"})
    await mixed.ours[1].pool.close()
    await mixed.real[0].sees("ours1", "failed", within=FAILED_WITHIN)
    await mixed.ours[0].sees("ours1", "failed")
    await mixed.real[0].command("force-leave", "ours1")
    await mixed.ours[0].sees("ours1", "left", within=30)
    await mixed.real[0].command("force-leave", "-prune", "ours1")
    await mixed.ours[0].sees("ours1", "", within=30)
    await mixed.ours[0].pool.force_leave("ours2", prune=True)
    await mixed.real[0].sees("ours2", "", within=30)
    await mixed.ours[0].pool.leave()
    await mixed.real[0].sees("ours0", "left", within=30)


async def keys_of(real: SerfAgent) -> dict[str, int]:
    """Keys of the pool and how many members hold each, as serf counts them."""
    _, output = await real.try_command("keys", "-list")
    return {key: int(count) for key, count in re.findall(r"^(\S+) +\[(\d+)/\d+\]", output, re.M)}


async def holds(real: SerfAgent, *keys: bytes) -> None:
    """Wait until all five answer a serf agent that they have these keys and no other."""

    async def held() -> bool:
        return await keys_of(real) == {text(key): 5 for key in keys}

    await eventually(held, within=ANSWERED_WITHIN)


async def serf_does(real: SerfAgent, option: str, key: bytes) -> None:
    """Have all members do something with a key, by serf's command."""

    async def done() -> bool:
        status, _ = await real.try_command("keys", f"-{option}={text(key)}")
        return status == 0

    await eventually(done, within=ANSWERED_WITHIN)


async def we_do(ours: Ours, operation: KeyOperation, key: bytes = b"") -> dict[str, int]:
    """Have all members do something with a key, by a query of ours; the keys they tell of."""
    keys: dict[str, int] = {}

    async def done() -> bool:
        result = await ours.pool.keys(operation, key)
        assert result.member_count == 5
        assert not result.messages
        keys.update(result.keys)
        return (result.error, result.response_count) == ("", 5)

    await eventually(done, within=ANSWERED_WITHIN)
    return keys


async def test_keys_are_rotated_from_either_side(tmp_path: Path) -> None:
    """A pool goes from one key to a second by serf's commands, then to a third by ours."""
    async with mixed_pool(tmp_path, KEY) as mixed:
        real, ours = mixed.real[0], mixed.ours[0]
        await holds(real, KEY)
        await serf_does(real, "install", SECOND_KEY)
        await holds(real, KEY, SECOND_KEY)
        await serf_does(real, "use", SECOND_KEY)
        await serf_does(real, "remove", KEY)
        await speaks(mixed, "second")
        assert await we_do(ours, KeyOperation.LIST) == {text(SECOND_KEY): 5}
        await we_do(ours, KeyOperation.INSTALL, THIRD_KEY)
        await we_do(ours, KeyOperation.USE, THIRD_KEY)
        await we_do(ours, KeyOperation.REMOVE, SECOND_KEY)
        await speaks(mixed, "third")
        await holds(real, THIRD_KEY)
        status, output = await real.try_command("keys", f"-remove={text(THIRD_KEY)}")
        assert status != 0
        assert "primary key is not allowed" in output
        for name in NAMES:  # A restart would find them.
            assert json.loads((tmp_path / f"{name}.keyring").read_text()) == [text(THIRD_KEY)]
        await mixed.agree(ALIVE)
        mixed.nobody_failed()


async def speaks(mixed: Mixed, name: str) -> None:
    """Events cross both ways."""
    await mixed.real[1].command("event", "-coalesce=false", f"{name}-real")
    await mixed.ours[1].pool.user_event(f"{name}-ours", b"")
    for ours in mixed.ours:
        await ours.observer.wait_for(UserEventReceived, f"{name}-real")
    for real in mixed.real:
        await real.logs(f"Received event: user-event: {name}-ours", within=ANSWERED_WITHIN)
