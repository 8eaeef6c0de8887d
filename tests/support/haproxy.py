"""HAProxy in the place of the built-in gateway: TCP mode, routed by the SNI of our route table."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from isthmus.mesh.routes import RouteTable
from isthmus.names import host_port

_DEADLINE = 10.0
_ANY_TRUST_DOMAIN = ".internal.*"


def missing() -> str:
    """Why HAProxy cannot be used here; empty when it can."""
    return "" if shutil.which("haproxy") else "haproxy is not installed"


def haproxy_config(table: RouteTable, binds: Sequence[tuple[str, int]]) -> str:
    """Configuration of an HAProxy that routes as `table` says; an unknown name is closed.

    Exact names come before suffixes and longer suffixes before shorter ones, since HAProxy takes
    the first rule that matches.
    """
    patterns = sorted(table.routes, key=lambda pattern: (pattern.startswith("*"), -len(pattern)))
    lines = [
        "defaults",
        "  mode tcp",
        "  option redispatch 1",
        "  retries 3",
        "  timeout connect 1s",
        "  timeout client 1h",
        "  timeout server 1h",
        "frontend gateway",
        *(f"  bind {host_port(*address)}" for address in binds),
        "  tcp-request inspect-delay 15s",
        "  tcp-request content accept if { req.ssl_hello_type 1 }",
        *(
            f"  use_backend route{number} if {{ {_condition(pattern)} }}"
            for number, pattern in enumerate(patterns)
        ),
    ]
    for number, pattern in enumerate(patterns):
        lines.append(f"backend route{number}")
        lines.append("  balance roundrobin")
        lines += [
            f"  server s{position} {endpoint} weight {endpoint.weight}"
            for position, endpoint in enumerate(table.routes[pattern].endpoints)
        ]
    return "\n".join(lines) + "\n"


def _condition(pattern: str) -> str:
    head, tail = pattern, ""
    if pattern.endswith(_ANY_TRUST_DOMAIN):
        head, tail = pattern.removesuffix("*"), ".*"
    if not tail and not head.startswith("*"):
        return f"req.ssl_sni -i {head}"
    if not tail:
        return f"req.ssl_sni -i -m end {head.removeprefix('*')}"
    start = ".+" if head.startswith("*") else ""
    escaped = head.removeprefix("*").replace(".", r"\.")
    return f"req.ssl_sni -i -m reg ^{start}{escaped}{tail}"


class HaproxyGateway:
    """A running HAProxy.

    Args:
        table: What it routes.
        binds: Addresses it listens on.
        prefix: Command words before ``haproxy``, such as ``ip netns exec NAME``.
    """

    def __init__(
        self,
        table: RouteTable,
        binds: Sequence[tuple[str, int]],
        *,
        prefix: Sequence[str] = (),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        config = Path(self._folder.name) / "haproxy.cfg"
        config.write_text(haproxy_config(table, binds))
        self.process = subprocess.Popen([*prefix, "haproxy", "-q", "-db", "-f", str(config)])
        self._binds = list(binds)

    def wait_until_it_listens(self) -> None:
        """Wait until every address accepts; for one that can be reached from here."""
        until = time.monotonic() + _DEADLINE
        for address in self._binds:
            while True:
                try:
                    socket.create_connection(address, timeout=1).close()
                    break
                except OSError:
                    assert self.process.poll() is None, "haproxy ended"
                    assert time.monotonic() < until, f"haproxy does not listen on {address}"
                    time.sleep(0.02)

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(_DEADLINE)
        self._folder.cleanup()
