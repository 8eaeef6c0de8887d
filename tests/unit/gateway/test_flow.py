"""One flow between two socket pairs: its far ends are the test's."""

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.gateway.flow import BUFFER_SIZE, ROUNDS_MAX, Carriage, Flow
from isthmus.gateway.pipes import PipePool


@dataclass
class Bench:
    """A flow, who writes into it, and who reads from it."""

    flow: Flow
    writer: socket.socket
    reader: socket.socket
    pipes: PipePool

    def pump(self) -> bool:
        """Pump as if everything had been reported."""
        self.flow.readable = self.flow.writable = True
        return self.flow.pump()

    def close(self) -> None:
        self.flow.close()
        self.pipes.close()
        for sock in (self.flow.source, self.flow.sink, self.writer, self.reader):
            sock.close()


def make_bench(pipes_max: int = 2) -> Bench:
    writer, source = _connected()
    sink, reader = _connected()
    for sock in (writer, source, sink, reader):
        sock.setblocking(False)
    pipes = PipePool(pipes_max, 1 << 16)
    return Bench(Flow(source, sink, Carriage(pipes)), writer, reader, pipes)


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    return near, far


@pytest.fixture(params=[2, 0], ids=["pipes", "no pipes"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = make_bench(request.param)
    yield bench
    bench.close()


def drain(bench: Bench) -> bytes:
    """All that the reader can read now."""
    parts = []
    try:
        while part := bench.reader.recv(1 << 20):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts)


def test_bytes_pass_and_short_reads_end_the_round(bench: Bench) -> None:
    bench.writer.send(b"hello")
    assert not bench.pump()
    assert (drain(bench), bench.flow.moved, bench.flow.readable) == (b"hello", 5, False)


def test_end_is_passed_on_behind_the_last_byte(bench: Bench) -> None:
    bench.writer.send(b"bye")
    bench.writer.shutdown(socket.SHUT_WR)
    bench.flow.hangup = True
    assert not bench.pump()
    assert bench.flow.ended
    bench.reader.setblocking(True)
    assert bench.reader.recv(10) == b"bye"
    assert bench.reader.recv(10) == b""


def test_nothing_is_read_that_the_sink_does_not_take(bench: Bench) -> None:
    sent = 0
    for _ in range(10_000):
        try:
            sent += bench.writer.send(bytes(1 << 16))
        except BlockingIOError:
            if not bench.pump() and not bench.flow.writable:
                break
    assert not bench.flow.writable
    held = bench.flow.moved
    bench.flow.readable = True
    assert not bench.flow.pump()
    assert bench.flow.moved == held
    bench.writer.close()
    received = len(drain(bench))
    while not bench.flow.ended:
        bench.pump()
        received += len(drain(bench))
    assert received == sent


def test_one_flow_has_no_more_than_its_share_of_a_turn(bench: Bench) -> None:
    bench.writer.send(bytes(BUFFER_SIZE * 2 * ROUNDS_MAX))
    more = bench.pump()
    if bench.pipes.lent:  # A splice may take all of it at once.
        return
    assert more == (bench.flow.moved == BUFFER_SIZE * ROUNDS_MAX)


def test_idle_flow_holds_no_pipe() -> None:
    bench = make_bench()
    bench.writer.send(bytes(BUFFER_SIZE * 4))
    while bench.pump():
        pass
    assert (bench.flow.moved, bench.pipes.lent) == (BUFFER_SIZE * 4, 0)
    bench.close()


def test_closed_flow_gives_up_the_bytes_in_its_pipe() -> None:
    bench = make_bench()
    for _ in range(1_000):
        try:
            bench.writer.send(bytes(1 << 16))
        except BlockingIOError:
            if not bench.pump() and not bench.flow.writable:
                break
    assert bench.pipes.lent == 1
    bench.flow.close()
    assert bench.pipes.lent == 0
    bench.close()


def test_broken_sink_is_an_error(bench: Bench) -> None:
    bench.reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    bench.reader.close()
    bench.writer.send(b"x")
    with pytest.raises(OSError, match=r"reset|[Bb]roken"):
        bench.pump()


def test_bytes_pushed_by_others_come_first(bench: Bench) -> None:
    bench.writer.send(b" world")
    bench.flow.push(b"hello")
    bench.pump()
    assert (drain(bench), bench.flow.moved) == (b"hello world", 11)


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.sampled_from([1, 100, BUFFER_SIZE, 70_000, 300_000]), max_size=12),
    pipes=st.sampled_from([0, 1]),
)
def test_any_sizes_arrive_in_order(seed: int, sizes: list[int], pipes: int) -> None:
    rng = random.Random(seed)
    bench = make_bench(pipes)
    received = bytearray()
    expected = bytearray()
    for size in sizes:
        rest = rng.randbytes(size)
        expected += rest
        while rest:
            try:
                rest = rest[bench.writer.send(rest) :]
            except BlockingIOError:
                bench.pump()
                received += drain(bench)
        if rng.random() < 0.5:
            bench.pump()
    bench.writer.shutdown(socket.SHUT_WR)
    while not bench.flow.ended:
        bench.pump()
        received += drain(bench)
    received += drain(bench)
    bench.close()
    assert received == expected
