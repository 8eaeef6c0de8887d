"""What engines promise that several servers share: following, fencing across servers, records."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from isthmus.engine.etcd import reads_trusted
from isthmus.engine.etcd_access import EtcdAccess
from isthmus.engine.etcd_api import MESSAGES, CallFailed, EtcdClient
from isthmus.store.engine import (
    Change,
    Compacted,
    Engine,
    EngineUnavailable,
    Fenced,
    FormatTooNew,
    Lead,
    LeaderInfo,
    OutcomeUnknown,
)
from support.batches import make_batch
from support.etcd import etcd_missing, free_ports, make_etcd, running_etcd

ALPHA = LeaderInfo("id-alpha", "alpha", "127.0.0.1:8300")
BETA = LeaderInfo("id-beta", "beta", "127.0.0.2:8300")
Join = Callable[[], Engine]


async def take(engine: Engine, after: int, count: int) -> list[Change]:
    found: list[Change] = []
    async with asyncio.timeout(10):
        async for change in engine.changes(after):
            found.append(change)
            if len(found) == count:
                break
    return found


async def rows(engine: Engine) -> list[tuple[bytes, bytes]]:
    return [pair async for page in engine.scan(b"d/") for pair in page]


async def test_follower_sees_each_commit_whole_and_in_order(join: Join) -> None:
    leader, follower = join(), join()
    await leader.open()
    head = await follower.open()
    lead = await leader.claim(ALPHA)
    assert lead is not None
    await leader.commit(lead, 1, make_batch(2, puts={b"d/a": b"1", b"d/b": b"1"}))
    await leader.commit(lead, 2, make_batch(4, puts={b"d/a": b"2"}, deletes={b"d/b"}))
    await leader.commit(lead, 4, make_batch(5, puts={b"i/0000/x": b"i"}))
    changes = await take(follower, head.revision, 4)
    assert changes[0].leadership
    assert await follower.leader() == LeaderInfo("id-alpha", "alpha", "127.0.0.1:8300", lead.epoch)
    assert [(c.index, c.puts, c.deletes) for c in changes[1:]] == [
        (2, {b"d/a": b"1", b"d/b": b"1"}, set()),
        (4, {b"d/a": b"2"}, {b"d/b"}),
        (5, {b"i/0000/x": b"i"}, set()),
    ]
    revisions = [change.revision for change in changes]
    assert revisions == sorted(set(revisions))
    await leader.close()
    await follower.close()


async def test_follower_goes_on_after_the_last_revision_it_saw(join: Join) -> None:
    leader, follower = join(), join()
    await leader.open()
    head = await follower.open()
    lead = await leader.claim(ALPHA)
    assert lead is not None
    for index in range(2, 12):
        await leader.commit(lead, index - 1, make_batch(index, puts={b"d/%d" % index: b""}))
    first = await take(follower, head.revision, 6)
    rest = await take(follower, first[-1].revision, 5)
    assert [change.index for change in (*first, *rest) if change.index] == list(range(2, 12))
    await leader.close()
    await follower.close()


async def test_key_of_another_server_is_taken_only_on_purpose(join: Join) -> None:
    alpha, beta = join(), join()
    await alpha.open()
    lead = await alpha.claim(ALPHA)
    assert lead is not None
    await beta.open()
    assert await beta.claim(BETA) is None
    await alpha.commit(lead, 1, make_batch(2))
    await beta.open()
    newer = await beta.claim(BETA, preempt=True)
    assert newer is not None
    assert newer.epoch > lead.epoch
    with pytest.raises(Fenced):
        await alpha.confirm(lead)
    with pytest.raises(Fenced):
        await alpha.commit(lead, 2, make_batch(3, puts={b"d/stale": b""}))
    await beta.commit(newer, 2, make_batch(3, puts={b"d/new": b""}))
    assert await rows(beta) == [(b"d/new", b"")]
    await alpha.close()
    await beta.close()


class Interrupted(EtcdClient):
    """Lets something else happen before a call."""

    def __init__(self, access: EtcdAccess, before: str, act: Callable[[], Awaitable[None]]) -> None:
        super().__init__(access)
        self._before, self._act = before, act

    async def call(self, method: str, request: Any, **options: Any) -> Any:
        if method == self._before:
            self._before = ""
            await self._act()
        return await super().call(method, request, **options)


async def test_leader_that_is_heard_of_while_claiming_is_not_taken_for_a_free_place(
    etcd: str,
) -> None:
    alpha, beta = (make_etcd(etcd, "/claiming/") for _ in range(2))
    head = await alpha.open()
    await beta.open()
    leads: list[Lead | None] = []

    async def claim_and_tell() -> None:
        leads.append(await alpha.claim(ALPHA))
        await take(beta, head.revision, 1)  # Now beta's engine knows that alpha leads.

    await beta.client.close()
    beta.client = Interrupted(EtcdAccess(endpoints=(etcd,)), "LeaseGrant", claim_and_tell)
    assert await beta.claim(BETA) is None
    assert leads[0] is not None
    await alpha.confirm(leads[0])
    await alpha.close()
    await beta.close()


class Silent(EtcdClient):
    """Sends transactions to an etcd that is paused, from `paused` on."""

    def __init__(self, access: EtcdAccess) -> None:
        super().__init__(access)
        self.paused, self._closed = False, asyncio.Event()

    async def call(self, method: str, request: Any, **options: Any) -> Any:
        if self.paused:
            await self._closed.wait()
            raise CallFailed(method, "UNAVAILABLE", "the connection was given up", sent=True)
        return await super().call(method, request, **options)

    async def close(self) -> None:
        self._closed.set()
        await super().close()


async def test_commit_that_is_given_up_has_an_unknown_outcome_and_no_effect(etcd: str) -> None:
    alpha, beta = (make_etcd(etcd, "/giving-up/") for _ in range(2))
    silent = alpha.client = Silent(EtcdAccess(endpoints=(etcd,)))
    await alpha.open()
    lead = await alpha.claim(ALPHA)
    assert lead is not None
    await beta.open()
    silent.paused = True
    committing = asyncio.ensure_future(alpha.commit(lead, 1, make_batch(2, puts={b"d/a": b"1"})))
    newer = await beta.claim(BETA, preempt=True)
    assert newer is not None
    assert not committing.done()
    await alpha.give_up()
    with pytest.raises(OutcomeUnknown, match="another server leads"):
        await committing
    silent.paused = False
    assert (await alpha.open()).index == 1
    again = await alpha.claim(ALPHA, preempt=True)  # As if nothing had been given up.
    assert again is not None
    assert (await alpha.commit(again, 1, make_batch(2, puts={b"d/b": b"1"}))).index == 2
    await alpha.close()
    await beta.close()


async def test_leader_is_told_when_its_key_is_taken_and_not_of_its_commits(join: Join) -> None:
    alpha, beta = join(), join()
    await alpha.open()
    lead = await alpha.claim(ALPHA)
    assert lead is not None
    told = alpha.leadership(lead)
    waiting = asyncio.ensure_future(anext(told))
    for index in range(2, 6):
        await alpha.commit(lead, index - 1, make_batch(index, puts={b"d/a": b"%d" % index}))
    await alpha.confirm(lead)
    assert not waiting.done()
    await beta.open()
    newer = await beta.claim(BETA, preempt=True)
    assert newer is not None
    async with asyncio.timeout(10):
        await waiting
    leader = await alpha.leader()
    assert leader is not None
    assert (leader.server_id, leader.epoch) == ("id-beta", newer.epoch)
    waiting = asyncio.ensure_future(anext(told))
    await beta.resign(newer)
    async with asyncio.timeout(10):
        await waiting
    assert await alpha.leader() is None
    await alpha.close()
    await beta.close()


async def test_leader_that_asks_late_is_told_what_it_missed(join: Join) -> None:
    alpha, beta = join(), join()
    await alpha.open()
    lead = await alpha.claim(ALPHA)
    assert lead is not None
    await alpha.commit(lead, 1, make_batch(2))
    await beta.open()
    assert await beta.claim(BETA, preempt=True) is not None
    async with asyncio.timeout(10):
        await anext(alpha.leadership(lead))
    leader = await alpha.leader()
    assert leader is not None
    assert leader.server_id == "id-beta"
    await alpha.close()
    await beta.close()


async def test_resigned_leadership_is_free_and_everyone_is_told(join: Join) -> None:
    alpha, beta = join(), join()
    await alpha.open()
    head = await beta.open()
    lead = await alpha.claim(ALPHA)
    assert lead is not None
    await alpha.resign(lead)
    changes = await take(beta, head.revision, 2)
    assert [change.leadership for change in changes] == [True, True]
    assert await beta.leader() is None
    newer = await beta.claim(BETA)
    assert newer is not None
    with pytest.raises(Fenced):
        await alpha.commit(lead, 1, make_batch(2))
    await beta.commit(newer, 1, make_batch(2))
    await alpha.close()
    await beta.close()


async def test_new_leader_goes_on_at_the_index_of_the_old_one(join: Join) -> None:
    alpha, beta = join(), join()
    await alpha.open()
    head = await beta.open()
    lead = await alpha.claim(ALPHA)
    assert lead is not None
    await alpha.commit(lead, 1, make_batch(2, puts={b"d/a": b"1"}))
    await take(beta, head.revision, 2)
    newer = await beta.claim(BETA, preempt=True)
    assert newer is not None
    await beta.commit(newer, 2, make_batch(3, puts={b"d/a": b"2"}))
    assert await rows(beta) == [(b"d/a", b"2")]
    await alpha.close()
    await beta.close()


async def test_new_leader_may_claim_before_it_has_read_all_commits(join: Join) -> None:
    alpha, beta = join(), join()
    await alpha.open()
    head = await beta.open()
    lead = await alpha.claim(ALPHA)
    assert lead is not None
    (claimed,) = await take(beta, head.revision, 1)
    await alpha.commit(lead, 1, make_batch(2, puts={b"d/a": b"1"}))
    newer = await beta.claim(BETA, preempt=True)
    assert newer is not None
    assert [change.index for change in await take(beta, claimed.revision, 2)] == [2, 0]
    await beta.commit(newer, 2, make_batch(3, puts={b"d/a": b"2"}))
    assert await rows(beta) == [(b"d/a", b"2")]
    await alpha.close()
    await beta.close()


# --- What only etcd does -----------------------------------------------------------------------


async def test_lease_ends_the_leadership_of_a_server_that_is_gone(etcd: str) -> None:
    alpha = make_etcd(etcd, "/lease/", lease_time=2.0)
    beta = make_etcd(etcd, "/lease/")
    await alpha.open()
    head = await beta.open()
    assert await alpha.claim(ALPHA) is not None
    await alpha.close()  # Without resigning, as if killed.
    changes = await take(beta, head.revision, 2)
    assert changes[-1].leadership
    assert await beta.leader() is None
    assert await beta.claim(BETA) is not None
    await beta.close()


async def test_data_of_another_datacenter_is_refused(etcd: str) -> None:
    first = make_etcd(etcd, "/other/")
    await first.open()
    await first.close()
    second = make_etcd(etcd, "/other/", datacenter="dc2")
    with pytest.raises(FormatTooNew, match=r"belongs to datacenter 'dc1'.*prefix"):
        await second.open()
    await second.close()


async def test_history_that_was_compacted_asks_for_a_reload(etcd: str) -> None:
    engine = make_etcd(etcd, "/compacted/")
    head = await engine.open()
    lead = await engine.claim(ALPHA)
    assert lead is not None
    for index in range(2, 6):
        last = await engine.commit(lead, index - 1, make_batch(index))
    await engine.compact(last.revision)
    with pytest.raises(Compacted):
        await take(engine, head.revision, 1)
    await engine.close()


async def test_commit_whose_answer_is_lost_is_in_once(etcd: str) -> None:
    engine = make_etcd(etcd, "/lost-answer/")
    await engine.open()
    lead = await engine.claim(ALPHA)
    assert lead is not None
    send, sends = engine.client.call, 0

    async def losing(method: str, request: object, *, timeout: float = 5.0) -> object:
        nonlocal sends
        sends += 1
        answer = await send(method, request, timeout=timeout)
        if sends == 1:
            raise CallFailed(method, "UNAVAILABLE", "the connection broke", sent=True)
        return answer

    engine.client.call = losing  # type: ignore[method-assign]
    head = await engine.commit(lead, 1, make_batch(2, puts={b"d/a": b"1"}))
    assert (head.index, sends) == (2, 2)
    await engine.commit(lead, 2, make_batch(3, puts={b"d/b": b"2"}))
    assert await rows(engine) == [(b"d/a", b"1"), (b"d/b", b"2")]
    await engine.close()


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("leaders", [1, 2])
async def test_commit_whose_answer_is_lost_below_commits_of_others(
    etcd: str, arrives: bool, leaders: int
) -> None:
    """It is not said to be out when it is in: whoever asked for it would do it twice."""
    root = f"/lost-below-{arrives}-{leaders}/"
    alpha, beta = make_etcd(etcd, root), make_etcd(etcd, root)
    await alpha.open()
    lead = await alpha.claim(ALPHA)
    assert lead is not None
    send, sends = alpha.client.call, 0

    async def losing(method: str, request: object, *, timeout: float = 5.0) -> object:
        nonlocal sends
        sends += 1
        if sends > 1:
            return await send(method, request, timeout=timeout)
        if arrives:
            await send(method, request, timeout=timeout)
        for _ in range(leaders):
            head = await beta.open()
            newer = await beta.claim(BETA, preempt=True)
            assert newer is not None
            await beta.commit(newer, head.index, make_batch(head.index + 1))
        raise CallFailed(method, "UNAVAILABLE", "the connection broke", sent=True)

    alpha.client.call = losing  # type: ignore[method-assign]
    batch = dataclasses.replace(make_batch(2, puts={b"d/a": b"1"}), id=b"our own batch id")
    if leaders == 2:
        with pytest.raises(OutcomeUnknown, match="several servers have led"):
            await alpha.commit(lead, 1, batch)
    elif arrives:
        assert (await alpha.commit(lead, 1, batch)).index == 2
    else:
        with pytest.raises(Fenced):
            await alpha.commit(lead, 1, batch)
    await alpha.close()
    await beta.close()


async def test_commit_that_is_never_answered_has_an_unknown_outcome(
    etcd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.engine.etcd.COMMIT_TIME_MAX", 0.2)
    engine = make_etcd(etcd, "/no-answer/")
    await engine.open()
    lead = await engine.claim(ALPHA)
    assert lead is not None

    async def broken(method: str, request: object, *, timeout: float = 5.0) -> object:
        raise CallFailed(method, "UNAVAILABLE", "the connection broke", sent=True)

    async def refused(method: str, request: object, *, timeout: float = 5.0) -> object:
        raise CallFailed(method, "UNAVAILABLE", "connection refused", sent=False)

    engine.client.call = broken  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown, match=r"no answer to a commit within 0\.2 s"):
        await engine.commit(lead, 1, make_batch(2))
    engine.client.call = refused  # type: ignore[method-assign]
    with pytest.raises(EngineUnavailable, match="refused"):
        await engine.commit(lead, 1, make_batch(2))
    await engine.close()


async def test_etcd_that_is_away_is_named() -> None:
    (port,) = free_ports(1)
    engine = make_etcd(f"127.0.0.1:{port}", "/away/")
    with pytest.raises(EngineUnavailable, match=rf"127\.0\.0\.1:{port} does not answer"):
        await engine.open()
    await engine.close()


async def test_second_endpoint_serves_while_the_first_is_away(etcd: str) -> None:
    (port,) = free_ports(1)
    client = EtcdClient(EtcdAccess(endpoints=(f"127.0.0.1:{port}", etcd)))
    status = await client.call("Status", MESSAGES["StatusRequest"]())
    assert status.version.startswith("3.")
    assert client.endpoint == etcd
    await client.close()


@pytest.mark.parametrize(
    ("version", "trusted"),
    [
        ("3.4.23", False),
        ("3.4.42", True),
        ("3.5.27", False),
        ("3.5.28", True),
        ("3.6.8", False),
        ("3.6.9", True),
        ("3.7.0", True),
        ("3.3.99", False),
        ("odd", False),
    ],
)
def test_reads_of_old_releases_are_not_trusted(version: str, trusted: bool) -> None:
    assert reads_trusted(version) is trusted


async def test_command_larger_than_a_transaction_is_one_commit_for_everyone(etcd: str) -> None:
    leader = make_etcd(etcd, "/redo/", operations_max=64)
    follower = make_etcd(etcd, "/redo/", operations_max=64)
    await leader.open()
    head = await follower.open()
    lead = await leader.claim(ALPHA)
    assert lead is not None
    await leader.commit(lead, 1, make_batch(2, puts={b"d/old/%d" % i: b"x" for i in range(40)}))
    many = {b"d/new/%04d" % i: b"value %d" % i for i in range(1000)}
    await leader.commit(
        lead, 2, make_batch(3, puts=many, deletes={b"d/old/1"}, ranges=[(b"d/old/2", b"d/old/3")])
    )
    await leader.commit(lead, 3, make_batch(4, puts={b"d/new/0000": b"later"}))
    changes = [c for c in await take(follower, head.revision, 4) if c.index]
    assert [change.index for change in changes] == [2, 3, 4]
    assert changes[1].puts == many
    assert changes[1].deletes == {b"d/old/1"}
    assert changes[1].ranges == [(b"d/old/2", b"d/old/3")]
    expected = {b"d/old/%d" % i: b"x" for i in range(40) if not str(i).startswith(("2", "1"))}
    expected |= {b"d/old/%d" % i: b"x" for i in range(10, 20)}
    expected |= many | {b"d/new/0000": b"later"}
    assert dict(await rows(leader)) == expected
    await follower.open()
    assert await rows(follower) == sorted(expected.items())
    await leader.close()
    await follower.close()


@pytest.mark.parametrize("after", range(1, 9))
async def test_leader_that_dies_while_copying_a_large_command_loses_nothing(
    etcd: str, after: int
) -> None:
    """Killed after any number of transactions, the command is in whole or not at all."""
    root = f"/redo-crash-{after}/"
    leader = make_etcd(etcd, root, operations_max=64)
    await leader.open()
    lead = await leader.claim(ALPHA)
    assert lead is not None
    await leader.commit(lead, 1, make_batch(2, puts={b"d/old": b"x", b"d/zold": b"x"}))
    many = {b"d/new/%04d" % i: b"value %d" % i for i in range(200)}
    large = make_batch(3, puts=many, deletes={b"d/old"})
    budget = after

    class Died(Exception):
        """The process is gone."""

    send = leader.client.call

    async def dying(method: str, request: object, *, timeout: float = 5.0) -> object:
        nonlocal budget
        if budget == 0:
            raise Died
        budget -= 1
        return await send(method, request, timeout=timeout)

    leader.client.call = dying  # type: ignore[method-assign]
    died = False
    try:
        await leader.commit(lead, 2, large)
    except Died:
        died = True
    leader.client.call = send  # type: ignore[method-assign]
    await leader.close()

    next_leader = make_etcd(etcd, root, operations_max=64)
    head = await next_leader.open()
    loaded = await rows(next_leader)
    before = [(b"d/old", b"x"), (b"d/zold", b"x")]
    whole = sorted({**many, b"d/zold": b"x"}.items())
    assert (head.index, loaded) in [(2, before), (3, whole)]
    if not died:
        assert head.index == 3
    lead = await next_leader.claim(BETA, preempt=True)
    assert lead is not None
    assert await rows(next_leader) == loaded
    await next_leader.commit(lead, head.index, make_batch(head.index + 1, puts={b"d/~": b""}))
    assert await rows(next_leader) == [*loaded, (b"d/~", b"")]
    await next_leader.close()


def test_watch_is_begun_also_when_the_token_has_become_invalid(tmp_path: Path) -> None:
    if reason := etcd_missing():
        pytest.skip(reason)

    def ask(path: str, token: str = "", **body: object) -> Any:
        connection = HTTPConnection(endpoint)
        headers = {"Authorization": token} if token else {}
        connection.request("POST", f"/v3/{path}", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, (path, text)
        connection.close()
        return json.loads(text)

    async def watch() -> None:
        client = EtcdClient(EtcdAccess(endpoints=(endpoint,), username="alpha", password="secret"))
        await client.call("Range", MESSAGES["RangeRequest"](key=b"k"))
        token = ask("auth/authenticate", name="root", password="secret")["token"]
        # The tokens that the user has end with a new password.
        ask("auth/user/changepw", token, name="alpha", password="secret")
        async with asyncio.timeout(10):
            begun = await anext(client.watch(b"k", b"", 1))
        assert begun.created
        assert not begun.canceled
        await client.close()

    with running_etcd(tmp_path) as endpoint:
        for name in ("root", "alpha"):
            ask("auth/user/add", name=name, password="secret")
            ask("auth/user/grant", user=name, role="root")
        ask("auth/enable")
        asyncio.run(watch())


class Wire:
    """A wire to an endpoint that can be made to deliver nothing more, and stay open."""

    def __init__(self, endpoint: str) -> None:
        self._host, _, self._port = endpoint.partition(":")
        self._moving = asyncio.Event()
        self._moving.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.endpoint = ""

    def freeze(self) -> None:
        """Deliver nothing more."""
        self._moving.clear()

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.endpoint = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(self._host, int(self._port))
        for source, target in ((reader, inner_writer), (inner_reader, writer)):
            self._tasks.add(asyncio.ensure_future(self._carry(source, target)))

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._moving.wait()
                target.write(data)
        finally:
            target.close()


async def test_endpoint_that_hangs_is_left_for_the_next_one_before_a_commit_is_given_up(
    etcd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.engine.etcd.ANSWER_TIME_MAX", 0.5)
    async with Wire(etcd) as wire:
        engine = make_etcd(wire.endpoint, "/hangs/")
        engine.client = EtcdClient(EtcdAccess(endpoints=(wire.endpoint, etcd)))
        head = await engine.open()
        lead = await engine.claim(ALPHA)
        assert lead is not None
        head = await engine.commit(lead, head.index, make_batch(head.index + 1))
        assert engine.client.endpoint == wire.endpoint
        wire.freeze()
        head = await engine.commit(lead, head.index, make_batch(head.index + 1))
        assert engine.client.endpoint == etcd
        await engine.confirm(lead)
        assert (await engine.open()).index == head.index
        await engine.close()


async def test_lease_is_kept_through_another_endpoint_when_one_hangs(etcd: str) -> None:
    async with Wire(etcd) as wire:
        client = EtcdClient(EtcdAccess(endpoints=(wire.endpoint, etcd)))
        granted = await client.call("LeaseGrant", MESSAGES["LeaseGrantRequest"](TTL=30))
        wire.freeze()
        with pytest.raises(CallFailed, match="no answer"):
            await client.keep_alive(granted.ID, timeout=0.2)
        assert await client.keep_alive(granted.ID) == 30
        await client.close()


async def test_only_endpoint_is_not_left_when_it_hangs(etcd: str) -> None:
    async with Wire(etcd) as wire:
        client = EtcdClient(EtcdAccess(endpoints=(wire.endpoint,)))
        await client.call("Status", MESSAGES["StatusRequest"]())
        channel = client._channel
        wire.freeze()
        with pytest.raises(CallFailed, match="no answer"):
            await client.call("Status", MESSAGES["StatusRequest"](), timeout=0.2)
        assert client._channel is channel  # What else waits for its answers goes on.
        await client.close()
