"""``isthmus agent -dev``: from exec to the first answer over HTTP, alone and two at once."""

import json
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

from bench.figures import resident, show

ROUNDS = 7
_DEADLINE = 20.0


def _start(number: int, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    host = f"127.77.{number}.1"
    config = folder / f"{number}.json"
    config.write_text(json.dumps({"bind_addr": host, "client_addr": host}))
    command = [sys.executable, "-m", "isthmus.cli.main", "agent", "-dev", "-config-file", config]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), host


def _answers(host: str) -> bool:
    connection = HTTPConnection(host, 8500, timeout=1)
    try:
        connection.request("GET", "/v1/status/leader")
        return connection.getresponse().read() not in {b"", b'""'}
    except OSError:
        return False
    finally:
        connection.close()


def _measure(count: int) -> tuple[float, float]:
    """Seconds until all `count` agents answer, and MiB of the first."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        agents = [_start(number, Path(folder)) for number in range(1, count + 1)]
        try:
            waiting = {host for _, host in agents}
            while waiting:
                waiting -= {host for host in waiting if _answers(host)}
                if time.perf_counter() - started > _DEADLINE:
                    raise RuntimeError(f"no answer from {sorted(waiting)}")
                time.sleep(0.005)
            elapsed = time.perf_counter() - started
            return elapsed, resident(agents[0][0].pid)
        finally:
            for process, _ in agents:
                process.terminate()
            for process, _ in agents:
                process.wait()


def main() -> None:
    """Print the medians."""
    _measure(1)  # Compiles modules and warms the file cache.
    alone = [_measure(1) for _ in range(ROUNDS)]
    show("agent -dev: exec to HTTP answering", [seconds for seconds, _ in alone], "s", "0.8")
    show("agent -dev: resident memory then", [memory for _, memory in alone], "MiB")
    pairs = [_measure(2)[0] for _ in range(ROUNDS)]
    show("two at once: exec to both answering", pairs, "s", "1.5")


if __name__ == "__main__":
    main()
