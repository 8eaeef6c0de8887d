"""``isthmus demo``: whole datacenters on loopback, federated only through their gateways."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from isthmus.cli.certificates import create_ca, create_certificate

USAGE: Final = """\
Usage: isthmus demo [-datacenters N] [-check]

  Start N datacenters (default 3) on loopback addresses, each with a server, a built-in mesh
  gateway and a service, federated only through the gateways. Ctrl-C stops all.

  -datacenters=N  How many, 2 to 20.
  -check          Start, let every datacenter read every other's service, stop. Exit 0 only if
                  all of it worked.
"""
DATACENTERS_MIN, DATACENTERS_MAX = 2, 20
READY_TIMEOUT: Final = 60.0
GATEWAY_PORT: Final = 8443
_STOP_TIMEOUT: Final = 10.0
_POLL: Final = 0.1
_TAKEN_TIMEOUT: Final = 3.0
_PR_SET_PDEATHSIG: Final = 1


@dataclass
class Datacenter:
    """One datacenter of the demo and its processes."""

    number: int
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name: ``dc1``, ``dc2`` and so on."""
        return f"dc{self.number}"

    @property
    def node(self) -> str:
        """Name of its server."""
        return f"{self.name}-server"

    @property
    def host(self) -> str:
        """Address of its server."""
        return f"127.{100 + self.number}.0.10"

    @property
    def gateway(self) -> str:
        """Address of its gateway for its own network."""
        return f"127.{100 + self.number}.0.20"

    @property
    def gateway_wan(self) -> str:
        """Address of its gateway for the other datacenters."""
        return f"127.{100 + self.number}.0.30"

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Ask its server; raises OSError when there is no answer or a bad one."""
        connection = HTTPConnection(self.host, 8500, timeout=5)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
        except HTTPException as error:
            raise OSError(f"{self.name}: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"{self.name}: {path}: {text.decode(errors='replace')}")
        return json.loads(text) if text else None

    def start(self, primary: "Datacenter", *, also_default: bool) -> None:
        """Start server and gateway; `also_default`: answer on 127.0.0.1:8500 as well."""
        config: dict[str, Any] = {
            "server": True,
            "bootstrap": True,
            "datacenter": self.name,
            "primary_datacenter": primary.name,
            "node_name": self.node,
            "data_dir": str(self.folder / f"{self.name}-data"),
            "bind_addr": self.host,
            "client_addr": f"{self.host} 127.0.0.1" if also_default else self.host,
            "ca_file": str(self.folder / "consul-agent-ca.pem"),
            "cert_file": str(self.folder / f"{self.name}-server-consul-0.pem"),
            "key_file": str(self.folder / f"{self.name}-server-consul-0-key.pem"),
            "verify_incoming": True,
            "verify_outgoing": True,
            "verify_server_hostname": True,
            "connect": {"enabled": True, "enable_mesh_gateway_wan_federation": True},
            "services": [{"name": "web", "port": 8000 + self.number, "address": self.host}],
        }
        if self is not primary:
            config["primary_gateways"] = [f"{primary.gateway_wan}:{GATEWAY_PORT}"]
        path = self.folder / f"{self.name}.json"
        path.write_text(json.dumps(config, indent=2))
        self._spawn("server", "agent", "-config-file", str(path))
        self._spawn(
            "gateway",
            *("connect", "gateway", "-mesh-gateway", "-register", "-expose-servers"),
            *("-http-addr", f"{self.host}:8500"),
            *("-address", f"{self.gateway}:{GATEWAY_PORT}"),
            *("-wan-address", f"{self.gateway_wan}:{GATEWAY_PORT}"),
        )

    def _spawn(self, part: str, *args: str) -> None:
        with (self.folder / f"{self.name}-{part}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "isthmus.cli.main", *args],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is ours; we stop them in order.
                    preexec_fn=_end_with_parent,
                )
            )

    def dead(self) -> str:
        """What ended by itself and the end of its log; empty while all run."""
        for part, process in zip(("server", "gateway"), self.processes, strict=False):
            if process.poll() is not None:
                log = (self.folder / f"{self.name}-{part}.log").read_text(errors="replace")
                return f"{self.name}: the {part} ended: {log[-1500:].strip()}"
        return ""

    def stop(self) -> None:
        """Ask its processes to stop."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()


class Demo:
    """The federation."""

    def __init__(self, count: int, folder: Path) -> None:
        self.folder = folder
        self.datacenters = [Datacenter(number, folder) for number in range(1, count + 1)]

    def taken(self) -> str:
        """An address of ours that somebody listens on already; empty when all are free."""
        for datacenter in self.datacenters:
            for host, port in (
                (datacenter.host, 8300),
                (datacenter.host, 8500),
                (datacenter.gateway, GATEWAY_PORT),
                (datacenter.gateway_wan, GATEWAY_PORT),
            ):
                if not _is_free(host, port):
                    return f"{host}:{port}"
        return ""

    def start(self) -> bool:
        """Create certificates and start everything; whether 127.0.0.1:8500 answers too."""
        certificate, key = create_ca(self.folder)
        for datacenter in self.datacenters:
            create_certificate(
                self.folder, dc=datacenter.name, node=datacenter.node, ca=certificate, ca_key=key
            )
        also_default = _is_free("127.0.0.1", 8500)
        primary = self.datacenters[0]
        for datacenter in self.datacenters:
            datacenter.start(primary, also_default=also_default and datacenter is primary)
        return also_default

    def steps(self) -> list[tuple[str, Callable[[Datacenter], bool]]]:
        """What has to become true in every datacenter, in the order it does."""
        names = {datacenter.name for datacenter in self.datacenters}

        def answers(dc: Datacenter) -> bool:
            return bool(dc.request("GET", "/v1/status/leader"))

        def joined(dc: Datacenter) -> bool:
            members = dc.request("GET", "/v1/agent/members?wan=1")
            return {m["Tags"].get("dc") for m in members if m["Status"] == 1} == names

        def gateways(dc: Datacenter) -> bool:
            found = dc.request("GET", "/v1/internal/federation-states/mesh-gateways")
            return set(found) == names

        def services(dc: Datacenter) -> bool:
            return all(
                dc.request("GET", f"/v1/health/service/web?dc={other}&passing=true")
                for other in sorted(names)
            )

        return [
            ("server answers", answers),
            ("joined the WAN pool through gateways", joined),
            ("knows every datacenter's gateways", gateways),
            ("reads every datacenter's service", services),
        ]

    def problem(self) -> str:
        """A process that ended by itself; empty while all run."""
        return next((text for dc in self.datacenters if (text := dc.dead())), "")

    def stop(self) -> None:
        """Stop everything, the hard way after some seconds."""
        for datacenter in reversed(self.datacenters):
            datacenter.stop()
        deadline = time.monotonic() + _STOP_TIMEOUT
        for datacenter in self.datacenters:
            for process in datacenter.processes:
                try:
                    process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


class Progress:
    """One line a step: how many datacenters have done it, and after how long."""

    def __init__(self, total: int) -> None:
        self._total, self._started = total, time.monotonic()
        self._terminal = sys.stdout.isatty()

    def show(self, label: str, done: int) -> None:
        """Show a step that goes on, on a terminal only."""
        if self._terminal:
            bar = "█" * done + "░" * (self._total - done)
            print(f"\r  {bar}  {label} …", end="", flush=True)

    def finish(self, label: str) -> None:
        """Show a finished step."""
        elapsed = time.monotonic() - self._started
        start = "\r" if self._terminal else ""
        print(f"{start}  {'█' * self._total}  {label} ({elapsed:.1f} s)  ", flush=True)


def run(args: Sequence[str]) -> int:
    """Run the demo; the exit code."""
    try:
        count, check = _parse(args)
    except ValueError as error:
        print(f"{error}\n\n{USAGE}" if str(error) else USAGE, file=sys.stderr)
        return 1 if str(error) else 0
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    folder = Path(tempfile.mkdtemp(prefix="isthmus-demo-"))
    demo = Demo(count, folder)
    until = time.monotonic() + _TAKEN_TIMEOUT  # An earlier demo may be about to stop.
    while (taken := demo.taken()) and time.monotonic() < until and not stop.wait(_POLL):
        pass
    if taken:
        folder.rmdir()
        print(f"{taken} is in use: is another demo running? Stop it first.", file=sys.stderr)
        return 1
    code = 1
    try:
        print(f"Starting {count} datacenters on loopback; logs and data in {folder}\n", flush=True)
        also_default = demo.start()
        if _wait(demo, stop):
            code = 0
            if not check:
                _show(demo, also_default=also_default)
                code = _hold(demo, stop)
    finally:
        demo.stop()
        if code == 0:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"Logs are kept in {folder}", file=sys.stderr)
    if check and code == 0:
        print("\nEvery datacenter reads every other's service.")
    return code


def _parse(args: Sequence[str]) -> tuple[int, bool]:
    count, check = 3, False
    rest = list(args)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or flag in {"h", "help"}:
            raise ValueError("" if word.startswith("-") else f"Unexpected argument: {word}")
        if flag == "check":
            check = value.lower() not in {"false", "0"}
        elif flag == "datacenters":
            text = value if equals else (rest.pop(0) if rest else "")
            if not text.isdigit() or not DATACENTERS_MIN <= int(text) <= DATACENTERS_MAX:
                raise ValueError(
                    f"-datacenters takes a number from {DATACENTERS_MIN} to {DATACENTERS_MAX}"
                )
            count = int(text)
        else:
            raise ValueError(f"Unknown flag: {word}")
    return count, check


def _wait(demo: Demo, stop: threading.Event) -> bool:
    progress = Progress(len(demo.datacenters))
    deadline = time.monotonic() + READY_TIMEOUT
    for label, step in demo.steps():
        waiting, last = list(demo.datacenters), ""
        while waiting:
            progress.show(label, len(demo.datacenters) - len(waiting))
            for datacenter in list(waiting):
                try:
                    if step(datacenter):
                        waiting.remove(datacenter)
                except OSError as error:
                    last = str(error)
            if problem := demo.problem():
                print(f"\n{problem}", file=sys.stderr)
                return False
            if not waiting:
                break
            if time.monotonic() > deadline:
                names = ", ".join(datacenter.name for datacenter in waiting)
                print(
                    f"\nnot within {READY_TIMEOUT:.0f} s: {label}: {names} {last}", file=sys.stderr
                )
                return False
            if stop.wait(_POLL):
                print()
                return False
        progress.finish(label)
    return True


def _show(demo: Demo, *, also_default: bool) -> None:
    from rich.console import Console  # Only here: it takes its time to load.
    from rich.table import Table

    console, first, last = Console(), demo.datacenters[0], demo.datacenters[-1]
    members = Table(title="WAN pool, as dc1 sees it", title_justify="left")
    for column in ("Server", "Datacenter", "Status", "Address (never dialled from outside)"):
        members.add_column(column)
    for member in first.request("GET", "/v1/agent/members?wan=1"):
        status = {1: "alive", 2: "leaving", 3: "left", 4: "failed"}.get(member["Status"], "none")
        address = f"{member['Addr']}:{member['Port']}"
        members.add_row(member["Name"], member["Tags"]["dc"], status, address)
    states = Table(title="Federation states, as dc1 has them", title_justify="left")
    for column in ("Datacenter", "Mesh gateways (WAN address)", "Updated"):
        states.add_column(column)
    for state in first.request("GET", "/v1/internal/federation-states"):
        gateways = [
            "{Address}:{Port}".format(**entry["Service"]["TaggedAddresses"]["wan"])
            for entry in state.get("MeshGateways") or ()
        ]
        states.add_row(state["Datacenter"], ", ".join(gateways), state["UpdatedAt"][:19] + "Z")
    console.print()
    console.print(members)
    console.print(states)
    flag = "" if also_default else f" -http-addr={first.host}:8500"
    program = _program()
    print(
        f"""
Try, in another terminal:

  {program} members -wan{flag}
  {program} federation list{flag}
  {program} kv put{flag} -datacenter={last.name} greeting 'hello from {first.name}'
  curl '{last.host}:8500/v1/kv/greeting?raw'
  curl '{first.host}:8500/v1/health/service/web?dc={last.name}&pretty'

Ctrl-C stops all of it.""",
        flush=True,
    )


def _program() -> str:
    """How a reader calls us: the bare name when it is on the path."""
    found = shutil.which("isthmus")
    beside = Path(sys.executable).with_name("isthmus")
    if found and Path(found).resolve() == beside.resolve():
        return "isthmus"
    return os.path.relpath(beside) if beside.exists() else "isthmus"


def _hold(demo: Demo, stop: threading.Event) -> int:
    while not stop.wait(0.5):
        if problem := demo.problem():
            print(problem, file=sys.stderr)
            return 1
    print("\nStopping …", flush=True)
    return 0


def _end_with_parent() -> None:
    """Have the kernel end a child when we die, however we die."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
