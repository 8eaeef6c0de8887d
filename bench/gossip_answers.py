"""Packets that one gossip thread handles per second: pings in, acks out, over real UDP sockets.

The member is a process of its own; pings come from this one, so many on their way at a time.
Besides the rate, the pings per second of the member's processor time are shown: what it would do on
a core of its own, whatever else runs on this machine.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from bench.figures import repeat, show
from isthmus.wire import memberlist as wire

ROUNDS = 5
SECONDS = 1.5
IN_FLIGHT = 32
_PORT = 22500
_ANSWERS = {wire.MessageType.ACK, wire.MessageType.COMPOUND, wire.MessageType.COMPRESS}
_TICKS = os.sysconf("SC_CLK_TCK")


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _ping(number: int, port: int) -> bytes:
    return wire.encode_message(
        wire.Ping(
            seq_no=number,
            node="m0",
            source_addr=socket.inet_aton("127.0.0.1"),
            source_port=port,
            source_node="bench",
        )
    )


def _measure(sock: socket.socket, packet: bytes) -> float:
    """Acks per second, `IN_FLIGHT` pings being on their way all the time."""
    answered = 0
    for _ in range(IN_FLIGHT):
        sock.send(packet)
    started = time.perf_counter()
    until = started + SECONDS
    while time.perf_counter() < until:
        answer = sock.recv(65536)
        assert answer[0] in _ANSWERS
        answered += 1
        sock.send(packet)
    rate = answered / (time.perf_counter() - started)
    for _ in range(IN_FLIGHT):
        sock.recv(65536)
    return rate


def main() -> None:
    """Print the medians."""
    command = [sys.executable, "-m", "bench.member", "m0", f"127.0.0.1:{_PORT}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as member:
        try:
            assert member.stdout is not None
            while not member.stdout.readline().startswith("ready"):
                if member.poll() is not None:
                    raise RuntimeError("the member did not start")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("127.0.0.1", 0))
                sock.connect(("127.0.0.1", _PORT))
                sock.settimeout(5)
                packet = _ping(7, sock.getsockname()[1])
                _measure(sock, packet)  # Its first rumours are told.
                before = _processor_seconds(member.pid)
                rates = repeat(ROUNDS, lambda: _measure(sock, packet))
                busy = (_processor_seconds(member.pid) - before) / (sum(rates) * SECONDS)
            show("one gossip thread: pings answered, real sockets", rates, "1/s", "15 000")
            show("   the same, per second of its processor time", [1 / busy], "1/s")
        finally:
            member.terminate()


if __name__ == "__main__":
    main()
