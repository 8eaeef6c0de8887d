"""What an idle pool of three says, per node, LAN profile: ours beside serf's agents.

Both pools run at the same time; a packet socket on the loopback interface counts every packet once,
with its IP header. Needs root. ``ISTHMUS_BENCH_SECONDS`` sets the window: 150 by default, five
rounds of full exchanges.
"""

import contextlib
import os
import socket
import time
from dataclasses import dataclass

from bench.figures import show
from bench.pools import Pool, kinds

SIZE = 3
SETTLE = 25.0
_SECONDS = float(os.environ.get("ISTHMUS_BENCH_SECONDS", "150"))
_FIRST_PORT = 22000
_PORTS_PER_POOL = 20
_ETH_P_IP = 0x0800
_HOST = 0  # The kernel's type of packets that arrive; loopback shows each once as such.
_RECEIVE_BUFFER = 4 * 1024 * 1024


@dataclass
class Traffic:
    """Counted of one pool."""

    packets: int = 0
    packet_bytes: int = 0
    streams: int = 0
    stream_bytes: int = 0

    def add(self, header: bytes, size: int) -> None:
        """Count an IP packet, given its first bytes."""
        start = (header[0] & 15) * 4
        if header[9] == socket.IPPROTO_UDP:
            self.packets += 1
            self.packet_bytes += size
        elif header[9] == socket.IPPROTO_TCP:
            self.stream_bytes += size
            self.streams += header[start + 13] & 0x12 == 0x02  # SYN without ACK.


def count(pools: list[Pool], seconds: float) -> list[Traffic]:
    """Listen for so long."""
    traffic = [Traffic() for _ in pools]
    by_port = {
        port: found for pool, found in zip(pools, traffic, strict=True) for port in pool.ports()
    }
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP)) as sniffer:
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sniffer.bind(("lo", _ETH_P_IP))
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            sniffer.settimeout(left)
            try:
                header, _, _, where = sniffer.recvmsg(128)
            except TimeoutError:
                break
            if where[2] != _HOST or header[9] not in {socket.IPPROTO_UDP, socket.IPPROTO_TCP}:
                continue
            start = (header[0] & 15) * 4
            ends = (int.from_bytes(header[start + at : start + at + 2], "big") for at in (0, 2))
            found = next((by_port[port] for port in ends if port in by_port), None)
            if found is not None:
                found.add(header, int.from_bytes(header[2:4], "big"))
    return traffic


def main() -> None:
    """Print what was counted."""
    with contextlib.ExitStack() as stack:
        pools: list[Pool] = []
        for kind in kinds():
            pools.append(kind(SIZE, _FIRST_PORT + _PORTS_PER_POOL * len(pools)))
            stack.callback(pools[-1].stop)
        time.sleep(SETTLE)
        for pool, found in zip(pools, count(pools, _SECONDS), strict=True):
            share = 1 / _SECONDS / SIZE
            ours = pool.kind == "isthmus"
            what = f"{pool.kind}, idle, per node"
            show(f"{what}: packets", [found.packets * share], "1/s", "1.9" if ours else "")
            total = (found.packet_bytes + found.stream_bytes) * share
            show(f"{what}: IP bytes in all", [total], "B/s", "296" if ours else "")
            show(f"{what}: of them streams", [found.stream_bytes * share], "B/s")
            rate, memory = found.streams / _SECONDS, pool.resident()
            print(f"   streams opened: {rate:.3f}/s; resident {memory:.1f} MiB")
            if pool.failed:
                raise RuntimeError(f"{pool.kind}: declared failed: {pool.failed}")
        print(f"   false positives in {_SECONDS + SETTLE:.0f} s: none")


if __name__ == "__main__":
    main()
