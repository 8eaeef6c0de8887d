"""Which servers of another datacenter are called, in which order, and what the caller is told."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from isthmus.errors import (
    ConnectionLost,
    DialFailed,
    MalformedPacket,
    NoPathToDatacenter,
    RemoteError,
    Unavailable,
)
from isthmus.federation.router import Router, ServerInfo
from isthmus.model.kv import DirEntry, KVSRequest
from isthmus.model.prepared_query import PreparedQueryExecuteRemoteRequest
from isthmus.model.query import DatacenterRequest
from isthmus.model.record import Record
from isthmus.net.client import ServerTarget
from isthmus.net.wan import RPC_DIAL_TIMEOUT
from isthmus.server.forward import CALL_TIMEOUT, Forwarder, call_timeout
from isthmus.units import Duration
from support.virtual_loop import run_virtual

READ = ("Catalog.ListNodes", DatacenterRequest(datacenter="dc2"))
WRITE = ("KVS.Apply", KVSRequest(datacenter="dc2", op="set", dir_ent=DirEntry(key="k")))


class FakeCaller:
    """Answers with what is prepared, one after the other; records whom it called."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.called: list[str] = []
        self.timeouts: list[float] = []

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
        self.called.append(target.node)
        self.timeouts.append(timeout)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def make_router(*nodes: str) -> Router:
    router = Router()
    for node in nodes:
        router.put(ServerInfo(name=f"{node}.dc2", node=node, dc="dc2", host="10.0.0.1", port=8300))
    return router


def dial_failed(step: str = "connect") -> DialFailed:
    return DialFailed("dial tcp: refused", dc="dc2", node="a", gateway="10.0.0.9:443", step=step)


def forward(call: tuple[str, Record], nodes: Sequence[str], *answers: object) -> FakeCaller:
    """The caller after a call that succeeded."""
    caller = FakeCaller(*answers)
    assert run_virtual(Forwarder(make_router(*nodes), caller).call("dc2", *call, str)) == "done"
    return caller


def refuse(
    call: tuple[str, Record], nodes: Sequence[str], *answers: object
) -> tuple[Exception, list[str]]:
    """The error of a call that failed, and whom it called."""
    caller = FakeCaller(*answers)
    with pytest.raises(Exception) as failure:  # noqa: PT011
        run_virtual(Forwarder(make_router(*nodes), caller).call("dc2", *call, str))
    return failure.value, caller.called


def test_first_server_answers() -> None:
    assert forward(READ, "ab", "done").called == ["a"]


@pytest.mark.parametrize("call", [READ, WRITE])
def test_every_server_is_dialled_once(call: tuple[str, Record]) -> None:
    """A dial that failed surely changed nothing, so writes go on as well."""
    error, called = refuse(call, "abcde", *[dial_failed() for _ in range(9)])
    assert called == ["a", "b", "c", "d", "e"]
    assert isinstance(error, DialFailed)
    assert str(error) == "rpc error getting client: failed to get conn: dial tcp: refused"
    assert (error.dc, error.node, error.gateway, error.step) == (
        "dc2",
        "a",
        "10.0.0.9:443",
        "connect",
    )


def test_missing_gateway_speaks_for_itself() -> None:
    error, called = refuse(READ, "a", dial_failed("no gateway known"))
    assert (str(error), called) == ("dial tcp: refused", ["a"])


@pytest.mark.parametrize("error", [ConnectionLost("EOF"), MalformedPacket("bad reply")])
def test_read_is_repeated_when_its_connection_breaks(error: Exception) -> None:
    assert forward(READ, "a", error, error, "done").called == ["a", "a", "a"]


def test_read_gives_up_after_three_broken_connections() -> None:
    error, called = refuse(READ, "ab", *[ConnectionLost("EOF") for _ in range(9)])
    assert isinstance(error, ConnectionLost)
    assert str(error) == (
        "rpc error making call: EOF (datacenter dc2, server a, step: remote server)"
    )
    assert called == ["a", "b", "a"]


def test_write_is_not_repeated_when_its_connection_breaks() -> None:
    error, called = refuse(WRITE, "ab", dial_failed(), ConnectionLost("EOF"))
    assert isinstance(error, ConnectionLost)
    assert str(error) == (
        "rpc error making call: EOF (datacenter dc2, server b, step: remote server)"
    )
    assert called == ["a", "b"]


@pytest.mark.parametrize("call", [READ, WRITE])
def test_server_that_failed_goes_behind_the_others(call: tuple[str, Record]) -> None:
    router = make_router("a", "b")
    forwarder = Forwarder(router, FakeCaller(ConnectionLost("EOF"), "done"))
    try:
        run_virtual(forwarder.call("dc2", *call, str))
    except ConnectionLost:
        assert call is WRITE
    assert [server.node for server in router.servers("dc2")] == ["b", "a"]


def test_error_that_a_server_answers_is_passed_on_and_not_repeated() -> None:
    error, called = refuse(READ, "ab", RemoteError("Permission denied"))
    assert isinstance(error, RemoteError)
    assert (str(error), error.status, called) == (
        "rpc error making call: Permission denied (datacenter dc2, server a, step: ACL)",
        403,
        ["a"],
    )


def test_unknown_datacenter() -> None:
    error, called = refuse(READ, "")
    assert isinstance(error, NoPathToDatacenter)
    assert (str(error), called) == ("No path to datacenter", [])


def test_our_own_limits_are_no_fault_of_a_server() -> None:
    error, called = refuse(READ, "ab", Unavailable("1000 RPC calls in flight"))
    assert (str(error), called) == ("1000 RPC calls in flight", ["a"])


def blocking(wait: float) -> DatacenterRequest:
    return DatacenterRequest(min_query_index=7, max_query_time=Duration.of(wait))


@pytest.mark.parametrize(
    ("request_", "seconds"),
    [
        (WRITE[1], CALL_TIMEOUT),
        (DatacenterRequest(), CALL_TIMEOUT),
        (DatacenterRequest(max_query_time=Duration.of(100)), CALL_TIMEOUT),
        (blocking(0), 300 * 17 / 16 + 7),
        (blocking(16), 17 + 7),
        (blocking(10_000), 600 * 17 / 16 + 7),
    ],
)
def test_every_call_has_a_deadline(request_: Record, seconds: float) -> None:
    assert call_timeout(request_) == pytest.approx(seconds)
    assert forward((READ[0], request_), "a", "done").timeouts == [pytest.approx(seconds)]


class FakeWitness:
    """Writes down what it is told; all troubles are 12 s old."""

    def __init__(self, why: str = "") -> None:
        self.told: list[tuple[object, ...]] = []
        self.reason = why

    def call_answered(self, dc: str, node: str) -> None:
        self.told.append(("answered", dc, node))

    def call_refused(self, dc: str, node: str) -> float:
        self.told.append(("refused", dc, node))
        return 12.0

    def call_failed(
        self, dc: str, *, node: str, gateway: str, step: str, text: str, dialled: bool
    ) -> float:
        self.told.append(("failed", dc, node, gateway, step, text, dialled))
        return 12.0

    def why(self, dc: str) -> str:
        return self.reason


def told(*answers: object) -> tuple[str, list[tuple[object, ...]]]:
    """Error text, empty for none, and what the witness was told, of a read of one server."""
    witness = FakeWitness()
    forwarder = Forwarder(make_router("a"), FakeCaller(*answers), witness)
    try:
        run_virtual(forwarder.call("dc2", *READ, str))
    except (Unavailable, RemoteError) as error:
        return str(error), witness.told
    return "", witness.told


def test_witness_hears_of_answers() -> None:
    assert told("done") == ("", [("answered", "dc2", "a")])


def test_errors_end_with_how_long_it_has_been_so() -> None:
    text, heard = told(dial_failed())
    assert text.endswith("dial tcp: refused, for 12.0 s now")
    assert heard == [("failed", "dc2", "a", "10.0.0.9:443", "connect", "dial tcp: refused", False)]
    lost = ConnectionLost("EOF", gateway="10.0.0.9:443", step="tls")
    text, heard = told(lost, lost, lost)
    assert text == (
        "rpc error making call: EOF (datacenter dc2, server a, gateway 10.0.0.9:443, step: TLS),"
        " for 12.0 s now"
    )
    assert heard == [("failed", "dc2", "a", "10.0.0.9:443", "tls", "EOF", True)]


def test_a_denied_call_names_the_acl_and_any_other_answer_proves_the_way() -> None:
    text, heard = told(RemoteError("Permission denied", gateway="g:1"))
    assert text == (
        "rpc error making call: Permission denied"
        " (datacenter dc2, server a, gateway g:1, step: ACL), for 12.0 s now"
    )
    assert heard == [("refused", "dc2", "a")]
    assert told(RemoteError("no such thing"))[1] == [("answered", "dc2", "a")]


def test_a_datacenter_without_servers_is_explained_when_something_is_known_of_it() -> None:
    forwarder = Forwarder(make_router(), FakeCaller(), FakeWitness("the gateway is down"))
    with pytest.raises(NoPathToDatacenter) as failure:
        run_virtual(forwarder.call("dc2", *READ, str))
    assert str(failure.value) == "No path to datacenter: the gateway is down"


def test_nearest_server_is_called_and_a_dead_one_costs_no_caller_an_error() -> None:
    """Three servers, the nearest is dead: callers are answered, and it cools down."""
    caller = FakeCaller(dial_failed(), *["done"] * 4, dial_failed(), "done")
    distances = {"a.dc2": 0.3, "b.dc2": 0.1, "c.dc2": 0.2}

    async def act() -> None:
        forwarder = Forwarder(make_router("a", "b", "c"), caller, far=distances.__getitem__)
        for method, request in (READ, WRITE, READ):
            assert await forwarder.call("dc2", method, request, str) == "done"
        await asyncio.sleep(5)
        for method, request in (WRITE, READ):  # A write does not find out whether it is back.
            assert await forwarder.call("dc2", method, request, str) == "done"

    run_virtual(act())
    assert caller.called == ["b", "c", "c", "c", "c", "b", "c"]


class SlowCaller(FakeCaller):
    """Uses up some of the time that it is given before it fails."""

    def __init__(self, *seconds: float) -> None:
        super().__init__()
        self.seconds = list(seconds)

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
        self.called.append(target.node)
        self.timeouts.append(timeout)
        await asyncio.sleep(min(timeout, self.seconds.pop(0)))
        raise dial_failed("deadline")


@pytest.mark.parametrize(
    ("seconds", "called", "timeouts"),
    [
        ([100.0], ["a"], [RPC_DIAL_TIMEOUT]),
        ([0.0, 1.0, 100.0], ["a", "b", "c"], [RPC_DIAL_TIMEOUT] * 2 + [RPC_DIAL_TIMEOUT - 1]),
    ],
)
def test_failover_of_a_query_takes_no_longer_than_one_dial(
    seconds: list[float], called: list[str], timeouts: list[float]
) -> None:
    """However many servers the datacenter has: the next datacenter waits to be asked."""
    caller, witness = SlowCaller(*seconds), FakeWitness()
    request = PreparedQueryExecuteRemoteRequest(datacenter="dc2", min_query_index=9)
    router = make_router(*"abcde")

    async def act() -> float:
        clock = asyncio.get_running_loop()
        started = clock.time()
        with pytest.raises(DialFailed):
            await Forwarder(router, caller, witness).call(
                "dc2", "PreparedQuery.ExecuteRemote", request, str
            )
        return clock.time() - started

    assert run_virtual(act()) == pytest.approx(RPC_DIAL_TIMEOUT)
    assert caller.called == called
    assert caller.timeouts == pytest.approx(timeouts)
    assert [entry[0] for entry in witness.told] == ["failed"]
