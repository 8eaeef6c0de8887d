"""One network namespace per datacenter, and one between them that lets only gateways through.

::

    dc1 10.1.0.10 (server)                      dc2 10.2.0.10 (server)
        10.1.0.20 (gateway, LAN)                    10.2.0.20 (gateway, LAN)
        198.51.100.1 (gateway, WAN) ── transit ── 198.51.100.5 (gateway, WAN)

The transit namespace forwards TCP to the gateways' WAN addresses and ports, and its answers;
everything else is dropped and counted. Traffic to or from a server's address has a counter of
its own. Needs root, iproute2 and iptables.
"""

import ctypes
import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

GATEWAY_PORT = 8443
SITE_SERVERS_MAX = 7
_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


def missing() -> str:
    """Why namespaces cannot be used here; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "iptables") if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def run(*command: str) -> str:
    """Run a command; its output, or an error that shows what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@dataclass
class Response:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded; the status must be a success."""
        assert self.status == 200, f"{self.status}: {self.body[:500]!r}"
        return json.loads(self.body)


@dataclass
class Namespace:
    """A network namespace that sockets can be opened in."""

    namespace: str
    _entered: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        """A thread that lives in the namespace opens the sockets; others may use them."""
        self._entered = ThreadPoolExecutor(1, initializer=_enter, initargs=(self.namespace,))

    def inside(self, call: Callable[[], T]) -> T:
        """Do something in the namespace."""
        return self._entered.submit(call).result()

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` in the namespace."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect from inside the namespace."""
        return self.inside(lambda: socket.create_connection((host, port), timeout))

    def close(self) -> None:
        """Stop the thread inside."""
        self._entered.shutdown()


@dataclass
class Site(Namespace):
    """A datacenter's network: a namespace with the addresses of servers and of gateways."""

    name: str
    number: int
    private: str

    @property
    def server(self) -> str:
        """Address of the datacenter's first server; nothing outside can reach it."""
        return self.server_address(0)

    def server_address(self, index: int) -> str:
        """Address of one of up to `SITE_SERVERS_MAX` servers."""
        return f"{self.private}.0.{10 + index}"

    def gateway(self, index: int = 0) -> str:
        """LAN address of a gateway."""
        return f"{self.private}.0.{20 + index}"

    def gateway_wan(self, index: int = 0) -> str:
        """WAN address of a gateway; two are configured for every site."""
        return f"198.51.100.{4 * (self.number - 1) + 1 + 64 * index}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout: float = 15.0,
        server: int = 0,
    ) -> Response:
        """Ask one of the site's servers over HTTP."""
        host = self.server_address(server)
        connection = http.client.HTTPConnection(host, 8500, timeout=timeout)
        connection.sock = self.connect(host, 8500, timeout)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """GET and decode; fails on an error status."""
        return self.request("GET", path).json()


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(handle)


class Sites:
    """Several sites around a transit namespace. A context manager.

    Args:
        count: How many.
        same_private: All use the same private addresses, as sites of different owners may.
    """

    def __init__(self, count: int, *, same_private: bool = False) -> None:
        self._same_private = same_private
        self._prefix = f"isth{os.getpid()}n{next(_numbers)}"
        self.transit = f"{self._prefix}t"
        self._create(count)
        self.sites = [
            Site(f"{self._prefix}d{number}", f"dc{number}", number, self._private(number))
            for number in range(1, count + 1)
        ]

    def _private(self, number: int) -> str:
        """First half of a site's private addresses."""
        return "10.1" if self._same_private else f"10.{number}"

    def _create(self, count: int) -> None:
        run("ip", "netns", "add", self.transit)
        in_transit = ("ip", "netns", "exec", self.transit)
        run(*in_transit, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for number in range(1, count + 1):
            self._attach(number)
        self._filter(count)

    def _attach(self, number: int) -> None:
        namespace, wan = f"{self._prefix}d{number}", 4 * (number - 1)
        run("ip", "netns", "add", namespace)
        here, there = f"v{number}x{os.getpid() % 100000}", f"t{number}x{os.getpid() % 100000}"
        run(
            *("ip", "link", "add", here, "netns", namespace),
            *("type", "veth", "peer", "name", there, "netns", self.transit),
        )
        inside = ("ip", "-n", namespace)
        run(*inside, "link", "set", "lo", "up")
        private = self._private(number)
        servers = [f"{private}.0.{10 + index}" for index in range(SITE_SERVERS_MAX)]
        for address in (*servers, *(f"{private}.0.{20 + i}" for i in range(4))):
            run(*inside, "addr", "add", f"{address}/32", "dev", "lo")
        for address in (f"198.51.100.{wan + 1}/30", f"198.51.100.{wan + 65}/32"):
            run(*inside, "addr", "add", address, "dev", here)
        run(*inside, "link", "set", here, "up")
        run(*inside, "route", "add", "default", "via", f"198.51.100.{wan + 2}")
        transit = ("ip", "-n", self.transit)
        run(*transit, "addr", "add", f"198.51.100.{wan + 2}/30", "dev", there)
        run(*transit, "link", "set", there, "up")
        run(*transit, "route", "add", f"198.51.100.{wan + 65}/32", "dev", there)
        if not self._same_private:
            run(*transit, "route", "add", f"10.{number}.0.0/16", "dev", there)

    def _filter(self, count: int) -> None:
        rules = ["-P FORWARD DROP", "-N servers", "-A servers -j DROP"]
        for number in range(1, count + 1):
            rules += [
                f"-A FORWARD -s 10.{number}.0.0/16 -j servers",
                f"-A FORWARD -d 10.{number}.0.0/16 -j servers",
            ]
        for number in range(1, count + 1):
            for index in (0, 1):
                address = f"198.51.100.{4 * (number - 1) + 1 + 64 * index}"
                rules += [
                    f"-A FORWARD -p tcp -d {address} --dport {GATEWAY_PORT} -j ACCEPT",
                    f"-A FORWARD -p tcp -s {address} --sport {GATEWAY_PORT} -j ACCEPT",
                ]
        rules += ["-N others", "-A others -j DROP", "-A FORWARD -j others"]
        for rule in rules:
            run("ip", "netns", "exec", self.transit, "iptables", "-w", *rule.split())

    def dropped(self, chain: str = "servers") -> int:
        """Packets that a chain dropped: ``servers`` (server to server) or ``others``."""
        listing = run(
            *("ip", "netns", "exec", self.transit, "iptables", "-w"),
            *("-nvxL", chain),
        )
        return sum(int(line.split()[0]) for line in listing.splitlines()[2:])

    def cut(self, site: Site) -> None:
        """Drop all traffic of a site's gateways."""
        for rule in self._cut_rules(site):
            run("ip", "netns", "exec", self.transit, "iptables", "-w", "-I", *rule)

    def heal(self, site: Site) -> None:
        """Undo `cut`."""
        for rule in self._cut_rules(site):
            run("ip", "netns", "exec", self.transit, "iptables", "-w", "-D", *rule)

    def _cut_rules(self, site: Site) -> list[list[str]]:
        addresses = (site.gateway_wan(0), site.gateway_wan(1))
        return [
            ["FORWARD", direction, address, "-j", "DROP"]
            for address in addresses
            for direction in ("-s", "-d")
        ]

    def __enter__(self) -> "Sites":
        return self

    def __exit__(self, *_: object) -> None:
        for site in self.sites:
            site.close()
        for namespace in (*(site.namespace for site in self.sites), self.transit):
            subprocess.run(["ip", "netns", "del", namespace], check=False, timeout=30)


class Lan:
    """One datacenter's machines: a namespace each, on one bridge. A context manager.

    Args:
        count: How many; their addresses are 10.77.0.1 and on.
    """

    def __init__(self, count: int) -> None:
        self._prefix = f"isth{os.getpid()}l{next(_numbers)}"
        self._switch = f"{self._prefix}s"
        run("ip", "netns", "add", self._switch)
        switch = ("ip", "-n", self._switch)
        run(*switch, "link", "add", "lan", "type", "bridge")
        run(*switch, "link", "set", "lan", "up")
        self.hosts = [self._attach(number) for number in range(1, count + 1)]

    def _attach(self, number: int) -> Namespace:
        namespace, switch = f"{self._prefix}h{number}", ("ip", "-n", self._switch)
        run("ip", "netns", "add", namespace)
        run(
            *("ip", "link", "add", "eth0", "netns", namespace),
            *("type", "veth", "peer", "name", f"port{number}", "netns", self._switch),
        )
        run(*switch, "link", "set", f"port{number}", "master", "lan", "up")
        inside = ("ip", "-n", namespace)
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        return Namespace(namespace)

    def address(self, number: int) -> str:
        """Of the host with a number, from 1 on."""
        return f"10.77.0.{number}"

    def cut(self, number: int) -> None:
        """Pull a host's cable at the switch: its packets vanish, and nobody is told."""
        run("ip", "-n", self._switch, "link", "set", f"port{number}", "nomaster")

    def heal(self, number: int) -> None:
        """Undo `cut`."""
        run("ip", "-n", self._switch, "link", "set", f"port{number}", "master", "lan")

    def __enter__(self) -> "Lan":
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.close()
        for namespace in (*(host.namespace for host in self.hosts), self._switch):
            subprocess.run(["ip", "netns", "del", namespace], check=False, timeout=30)
