"""isthmus as installed: its processes, their configuration and their certificates."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ISTHMUS = (sys.executable, "-m", "isthmus.cli.main")
STOP_TIMEOUT = 15.0


class Process:
    """A running program; its output goes to a file that a failing test shows."""

    def __init__(
        self, command: list[str], log: Path, *, env: Mapping[str, str] | None = None
    ) -> None:
        self.command, self.log = command, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait(timeout)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it, with SIGKILL if the signal is not enough; its exit code."""
        if self.running():
            self.send(number)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self.wait()


def eventually(check: Callable[[], T], *, timeout: float, every: float = 0.1, what: str = "") -> T:
    """Call until the answer is true; an assertion or a network error counts as not yet.

    Raises:
        AssertionError: Not in time; says what the last answer or error was.
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = check()
            if last:
                return last
        except (AssertionError, OSError) as error:
            last = error
        time.sleep(every)
    raise AssertionError(f"{what or 'condition'} not met within {timeout} s; last: {last!r}")


@contextmanager
def shown_on_failure(*processes: Process) -> Iterator[None]:
    """Print the ends of the processes' logs when the block fails."""
    try:
        yield
    except BaseException:
        for process in processes:
            print(f"==== {' '.join(process.command[-6:])}\n{process.output()[-6000:]}")
        raise


def make_certificates(folder: Path, servers: Mapping[str, str]) -> None:
    """A CA, and for every datacenter a certificate of its server (datacenter → node name)."""
    subprocess.run([*ISTHMUS, "tls", "ca", "create"], cwd=folder, check=True, capture_output=True)
    for dc, node in servers.items():
        subprocess.run(
            [*ISTHMUS, "tls", "cert", "create", "-server", "-dc", dc, "-node", node],
            cwd=folder,
            check=True,
            capture_output=True,
        )


def server_config(
    folder: Path, *, dc: str, node: str, address: str, primary: str = "dc1", **more: Any
) -> Path:
    """Write the configuration of a federated server; the file."""
    config: dict[str, Any] = {
        "server": True,
        "bootstrap": True,
        "datacenter": dc,
        "primary_datacenter": primary,
        "node_name": node,
        "data_dir": str(folder / f"data-{dc}"),
        "bind_addr": address,
        "client_addr": address,
        "ca_file": str(folder / "consul-agent-ca.pem"),
        "cert_file": str(folder / f"{dc}-server-consul-0.pem"),
        "key_file": str(folder / f"{dc}-server-consul-0-key.pem"),
        "verify_incoming": True,
        "verify_outgoing": True,
        "verify_server_hostname": True,
        "log_level": "DEBUG",
        "connect": {"enabled": True, "enable_mesh_gateway_wan_federation": True},
        **more,
    }
    path = folder / f"{dc}.json"
    path.write_text(json.dumps(config))
    return path
