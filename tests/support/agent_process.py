"""One server agent as a process, asked over HTTP."""

import json
import signal
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from support.processes import ISTHMUS, Process, eventually, shown_on_failure

HTTP_PORT = 8500
START_TIMEOUT = 20.0


class AgentProcess:
    """A server agent on a loopback address of its own.

    Args:
        folder: For its configuration, its data and its log.
        host: Its address.
        config: Configuration keys beyond the addresses; with ``data_dir`` it keeps its data.
    """

    def __init__(self, folder: Path, host: str, **config: Any) -> None:
        self.host, self.log = host, folder / f"{host}.log"
        self.file = folder / f"{host}.json"
        self.file.write_text(json.dumps({"bind_addr": host, "client_addr": host, **config}))
        dev = () if "data_dir" in config else ("-dev",)
        self._command = [*ISTHMUS, "agent", *dev, "-config-file", str(self.file)]
        self.process = Process(self._command, self.log)

    def restart(self) -> None:
        """Start it again after its end."""
        assert not self.process.running()
        self.process = Process(self._command, self.log)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.stop(signal.SIGKILL)

    def wait_until_ready(self) -> None:
        """Wait until it leads and has registered itself."""
        with shown_on_failure(self.process):
            eventually(self.ready, timeout=START_TIMEOUT, every=0.02, what=f"agent at {self.host}")

    def ready(self) -> bool:
        """Whether it leads and has registered itself."""
        return bool(self.get("/v1/status/leader")) and bool(self.get("/v1/catalog/nodes"))

    def request(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float = 10.0
    ) -> tuple[int, bytes, dict[str, str]]:
        """Ask on a connection of its own; status, body and headers."""
        connection = HTTPConnection(self.host, HTTP_PORT, timeout=timeout)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def get(self, path: str, *, timeout: float = 10.0) -> Any:
        """GET and decode."""
        status, body, _ = self.request("GET", path, timeout=timeout)
        assert status == 200, body
        return json.loads(body)

    def resident(self) -> int:
        """Bytes of resident memory."""
        return resident_size(self.process.pid)

    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def resident_size(pid: int) -> int:
    """Bytes of a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
