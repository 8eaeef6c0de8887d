"""Connections between whole agents, as their protocols see them."""

import asyncio
from collections.abc import Iterator

import pytest

from isthmus.sim.stream import (
    GIVE_UP_AFTER,
    HIGH_WATER,
    KEEPALIVE_INTERVAL,
    KEEPALIVE_PROBES,
    SOCKET_BUFFER,
    WINDOW,
)
from support.fabrics import LATENCY, Accept, Lab, Recorder, Site

ROUND_TRIP = 2 * LATENCY


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


def connect(
    lab: Lab, source: Site | None = None, target: Site | None = None
) -> tuple[Recorder, Recorder]:
    """Two ends of a connection from alpha to beta."""
    source, target = source or lab.alpha, target or lab.beta
    accept = Accept()
    lab.listen(target, accept)
    work = source.network.dial(Recorder, target.host.addresses[0], 80, tls=None, timeout=5)
    near = lab.run(source, work)
    lab.sleep(LATENCY)
    return near, accept.made[0]


def test_bytes_arrive_in_order_after_the_latency(lab: Lab) -> None:
    near, far = connect(lab)
    near.transport.write(b"one ")
    near.transport.write(b"two")
    lab.sleep(LATENCY * 0.9)
    assert far.data == b""
    lab.sleep(LATENCY * 0.2)
    assert far.data == b"one two"
    far.transport.write(b"back")
    lab.sleep(LATENCY * 1.1)
    assert near.data == b"back"


def test_loss_delays_and_loses_nothing(lab: Lab) -> None:
    near, far = connect(lab)
    lab.links.cut("dc1", "dc1")
    near.transport.write(b"late")
    near.transport.write(b"r")
    lab.sleep(60)
    assert far.data == b""
    lab.links.heal("dc1", "dc1")
    lab.sleep(120)
    assert far.data == b"later"
    assert near.lost == far.lost == []


def test_connection_without_an_answer_is_given_up_in_the_end(lab: Lab) -> None:
    near, far = connect(lab)
    lab.links.cut("dc1", "dc1")
    near.transport.write(b"never")
    lab.sleep(GIVE_UP_AFTER + 130)
    assert isinstance(near.lost[0], TimeoutError)
    assert far.data == b""


def test_keepalive_ends_a_silent_connection_whose_way_is_cut(lab: Lab) -> None:
    near, far = connect(lab)
    lab.links.cut("dc1", "dc1")
    lab.sleep(KEEPALIVE_INTERVAL * KEEPALIVE_PROBES - 1)
    assert near.lost == far.lost == []
    lab.sleep(KEEPALIVE_INTERVAL + 2)
    assert isinstance(near.lost[0], TimeoutError)
    assert isinstance(far.lost[0], TimeoutError)


def test_idle_connection_stays(lab: Lab) -> None:
    near, far = connect(lab)
    lab.sleep(3600)
    assert near.lost == far.lost == []


def test_close_lets_everything_arrive_and_tells_the_other_end(lab: Lab) -> None:
    near, far = connect(lab)
    near.transport.write(b"last words")
    near.transport.close()
    assert near.transport.is_closing()
    near.transport.write(b"too late")
    lab.sleep(ROUND_TRIP * 2)
    assert far.data == b"last words"
    assert far.ended
    assert near.lost == far.lost == [None]
    assert lab.alpha.host.connection_count == lab.beta.host.connection_count == 0


def test_abort_resets_the_other_end(lab: Lab) -> None:
    near, far = connect(lab)
    near.transport.abort()
    lab.sleep(ROUND_TRIP)
    assert near.lost == [None]
    assert isinstance(far.lost[0], ConnectionResetError)


def test_writing_to_an_end_that_is_gone_resets(lab: Lab) -> None:
    near, far = connect(lab)
    far.transport.pause_reading()
    lab.links.cut("dc1", "dc1")
    lab.alpha.host.kill()  # Its reset is lost.
    lab.links.heal("dc1", "dc1")
    far.transport.write(b"hello?")
    lab.sleep(ROUND_TRIP)
    far.transport.resume_reading()
    lab.sleep(ROUND_TRIP)
    assert isinstance(far.lost[0], ConnectionResetError)
    assert near.lost == []


def test_killed_program_resets_its_connections_and_hears_nothing(lab: Lab) -> None:
    near, far = connect(lab)
    lab.alpha.host.kill()
    lab.sleep(ROUND_TRIP)
    assert near.lost == []
    assert isinstance(far.lost[0], ConnectionResetError)


def test_reader_that_pauses_holds_the_writer_back(lab: Lab) -> None:
    near, far = connect(lab)
    far.transport.pause_reading()
    assert not far.transport.is_reading()
    block = bytes(64 * 1024)
    for _ in range((WINDOW + SOCKET_BUFFER + HIGH_WATER) // len(block) + 1):
        near.transport.write(block)
        lab.sleep(ROUND_TRIP)
    assert near.paused_count - near.resumed_count == 1
    assert near.transport.get_write_buffer_size() > 0
    assert far.data == b""
    far.transport.resume_reading()
    lab.sleep(1)
    assert near.resumed_count == near.paused_count
    assert near.transport.get_write_buffer_size() == 0
    assert len(far.data) > WINDOW


def test_half_closed_connection_carries_the_other_way(lab: Lab) -> None:
    class Patient(Recorder):
        def eof_received(self) -> bool:
            self.ended = True
            return True

    accept = Accept()
    lab.listen(lab.beta, accept)

    async def dial() -> Patient:
        return await lab.alpha.network.dial(Patient, "10.0.1.2", 80, tls=None, timeout=5)

    near = lab.run(lab.alpha, dial())
    lab.sleep(LATENCY)
    far = accept.made[0]
    far.transport.write_eof()
    lab.sleep(ROUND_TRIP)
    assert near.ended
    near.transport.write(b"still here")
    lab.sleep(ROUND_TRIP)
    assert far.data == b"still here"
    assert near.lost == []


def test_paused_program_finds_everything_when_it_wakes(lab: Lab) -> None:
    near, far = connect(lab)
    lab.beta.loop.paused = True
    near.transport.write(b"wake up")
    lab.sleep(100)
    assert far.data == b""
    lab.beta.loop.paused = False
    lab.sleep(0.001)
    assert far.data == b"wake up"


def test_extra_info_is_what_a_socket_tells(lab: Lab) -> None:
    near, _ = connect(lab)
    transport = near.transport
    assert transport.get_extra_info("peername") == ("10.0.1.2", 80)
    assert transport.get_extra_info("sockname")[0] == "10.0.1.1"
    assert transport.get_extra_info("ssl_object") is None
    assert transport.get_extra_info("cipher", "none") == "none"
    assert transport.get_protocol() is near
    assert transport.can_write_eof()
    other = Recorder()
    transport.set_protocol(other)
    assert transport.get_protocol() is other


def test_deliveries_are_taken_down(lab: Lab) -> None:
    near, _ = connect(lab)
    near.transport.write(b"12345")
    lab.sleep(LATENCY * 1.1)
    assert any(line.endswith("tcp alpha beta 5") for line in lab.lines)
    assert lab.fabric.sent_sizes["alpha", "tcp"] == 5


def test_streams_of_asyncio_work_on_the_loop(lab: Lab) -> None:
    accept = Accept()
    lab.listen(lab.beta, accept)

    async def work() -> bytes:
        reader, writer = await asyncio.open_connection("10.0.1.2", 80)
        writer.write(b"ping")
        await asyncio.sleep(LATENCY * 2)
        accept.made[0].transport.write(b"pong")
        accept.made[0].transport.close()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    assert lab.run(lab.alpha, work()) == b"pong"
    assert accept.made[0].data == b"ping"
