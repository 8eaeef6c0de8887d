"""TTL checks on virtual time; TCP and HTTP checks against sockets on loopback."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from isthmus.agent.checks import CheckRunner, refuse_unknown_kind
from isthmus.errors import InvalidRequest
from isthmus.model.agent import CheckDefinition
from isthmus.units import Duration
from support.virtual_loop import now, run_virtual


class World:
    """A running check, what it reported and when it asked to be deregistered."""

    def __init__(self, definition: CheckDefinition) -> None:
        self.reports: list[tuple[float, str, str]] = []
        self.deregistered: list[float] = []
        self.runner = CheckRunner(
            "c1",
            definition,
            report=lambda _, status, output: self.reports.append((now(), status, output)),
            deregister=lambda: self.deregistered.append(now()),
            rng=Random(1),
        )


def play(definition: CheckDefinition, seconds: float, *acts: tuple[float, str, str]) -> World:
    """Run a check for some time; its owner sends each act at its moment."""

    async def run() -> World:
        world = World(definition)
        running = asyncio.get_running_loop().create_task(world.runner.run())
        for moment, status, output in acts:
            await asyncio.sleep(moment - now())
            world.runner.heard(status, output)
        await asyncio.sleep(seconds - now())
        running.cancel()
        await asyncio.wait({running})
        await asyncio.sleep(10_000)  # What was left running would tell.
        return world

    return run_virtual(run())


def ttl(seconds: float, *, deregister: float = 0.0, size: int = 0) -> CheckDefinition:
    return CheckDefinition(
        ttl=Duration.of(seconds),
        deregister_critical_service_after=Duration.of(deregister),
        output_max_size=size,
    )


def test_ttl_runs_out_again_and_again() -> None:
    assert play(ttl(10), 25).reports == [
        (10, "critical", "TTL expired"),
        (20, "critical", "TTL expired"),
    ]


def test_owner_restarts_the_time() -> None:
    world = play(ttl(10), 25, (9, "passing", "fine"), (14, "warning", "slow"))
    assert world.reports == [
        (9, "passing", "fine"),
        (14, "warning", "slow"),
        (24, "critical", "TTL expired"),
    ]


def test_output_is_cut() -> None:
    assert play(ttl(10, size=4), 5, (1, "passing", "abcdefgh")).reports == [(1, "passing", "abcd")]
    (report,) = play(ttl(10), 5, (1, "passing", "x" * 5000)).reports
    assert len(report[2]) == 4096


def test_service_goes_when_critical_for_long_enough() -> None:
    """On time, not at the next expiry."""
    assert play(ttl(100, deregister=60), 300).deregistered == [160]


def test_recovery_stops_the_deregistration() -> None:
    acts = [(1, "critical", ""), (50, "passing", ""), (70, "critical", ""), (90, "critical", "")]
    assert play(ttl(1000, deregister=60), 200, *acts).deregistered == [130]


def test_check_that_is_removed_deregisters_nothing() -> None:
    assert play(ttl(100, deregister=60), 130).deregistered == []


def test_check_that_is_no_ttl_check_takes_no_state() -> None:
    async def act() -> None:
        world = World(CheckDefinition(tcp="127.0.0.1:1", interval=Duration.of(1)))
        with pytest.raises(InvalidRequest, match='CheckID "c1" does not have associated TTL') as no:
            world.runner.heard("passing", "")
        assert no.value.status == 500

    run_virtual(act())


@pytest.mark.parametrize(
    "definition",
    [
        CheckDefinition(script_args=("true",)),
        CheckDefinition(grpc="h:1"),
        CheckDefinition(h2ping="h:1"),
        CheckDefinition(alias_service="web"),
        CheckDefinition(alias_node="n"),
        CheckDefinition(docker_container_id="x"),
    ],
)
def test_kind_that_we_cannot_run_is_refused(definition: CheckDefinition) -> None:
    with pytest.raises(InvalidRequest, match="checks are not supported by this release"):
        refuse_unknown_kind(definition)


def test_kind_that_we_can_run_is_not_refused() -> None:
    for definition in (ttl(1), CheckDefinition(tcp="h:1"), CheckDefinition(http="http://h")):
        refuse_unknown_kind(definition)


# On sockets -------------------------------------------------------------------------------------


async def first_report(**fields: Any) -> tuple[str, str]:
    """What a check reports first, at the latest after some seconds."""
    report: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
    runner = CheckRunner(
        "c1",
        CheckDefinition(interval=Duration.of(60), **fields),
        report=lambda _, status, output: report.set_result((status, output)),
        deregister=lambda: None,
        rng=Random(1),
    )
    running = asyncio.get_running_loop().create_task(runner.run())
    try:
        async with asyncio.timeout(5):
            return await report
    finally:
        running.cancel()
        await asyncio.wait({running})


async def listening(answer: bytes, use: Callable[[str], Any]) -> tuple[Any, bytes]:
    """What `use` makes of a server that sends `answer`; and the request that it got."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer:
            received.extend(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        return await use(f"{host}:{port}"), bytes(received)


async def closed_address() -> str:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    return f"{host}:{port}"


async def test_tcp_connection_passes() -> None:
    (status, output), _ = await listening(b"", lambda address: first_report(tcp=address))
    assert status == "passing"
    assert output.startswith("TCP connect 127.0.0.1:")
    assert output.endswith(": Success")


async def test_refused_tcp_connection_is_critical() -> None:
    address = await closed_address()
    status, output = await first_report(tcp=address)
    assert status == "critical"
    assert output.startswith(f"TCP connect {address}: ")


@pytest.mark.parametrize("address", ["nonsense", "h:70000", "h\x00:1", "a..b:1"])
async def test_tcp_address_that_cannot_be_used_is_critical(address: str) -> None:
    assert (await first_report(tcp=address))[0] == "critical"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (200, "passing"),
        (204, "passing"),
        (302, "critical"),
        (404, "critical"),
        (429, "warning"),
        (503, "critical"),
    ],
)
async def test_http_status_decides(code: int, status: str) -> None:
    answer = f"HTTP/1.1 {code} Word\r\nContent-Length: {0 if code == 204 else 4}\r\n\r\n"
    body = b"" if code == 204 else b"body"
    (found, output), request = await listening(
        answer.encode() + body,
        lambda address: first_report(
            http=f"http://{address}/health?deep=1", header={"X-Test": ("a", "b")}
        ),
    )
    assert found == status
    assert output.endswith(f": {code} Word Output: {body.decode()}")
    assert request.startswith(b"GET /health?deep=1 HTTP/1.1\r\n")
    assert b"\r\nX-Test: a, b\r\n" in request


async def test_method_and_body_are_sent() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    _, request = await listening(
        answer,
        lambda address: first_report(http=f"http://{address}", method="PUT", body="grüß"),
    )
    assert request.startswith(b"PUT / HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 6\r\n" in request


@pytest.mark.parametrize("url", ["http://127.0.0.1:abc/", "http://", "http://h:99999/", "nonsense"])
async def test_url_that_cannot_be_used_is_critical(url: str) -> None:
    status, output = await first_report(http=url)
    assert status == "critical"
    assert output.startswith(f"GET {url}: ")


async def test_refused_http_connection_is_critical() -> None:
    address = await closed_address()
    assert (await first_report(http=f"http://{address}"))[0] == "critical"


async def test_answer_that_is_no_http_is_critical() -> None:
    (found, _), _ = await listening(
        b"SSH-2.0-x\r\n\r\n", lambda address: first_report(http=f"http://{address}")
    )
    assert found == "critical"
