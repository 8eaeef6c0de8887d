"""Patroni with PostgreSQL keeps a database available through isthmus: locks, sessions, services.

Two members of a cluster take part; each is Debian's Patroni with a PostgreSQL of its own. They
are told that they speak to Consul.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.processes import eventually

POSTGRES = Path("/usr/lib/postgresql/15/bin")
TTL = 20
"""Patroni asks for a session of half of it, whose end Consul promises within twice that time."""
FORM_TIMEOUT = 120.0
MARGIN = 20.0
"""For the election behind the end of a session, on a busy machine."""

_MISSING = shutil.which("patroni") is None or not POSTGRES.is_dir() or os.geteuid() != 0
pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(400),
    pytest.mark.skipif(_MISSING, reason="needs root: apt-get install patroni postgresql-15"),
]


class Member:
    """Patroni and its PostgreSQL."""

    def __init__(self, folder: Path, host: str, consul: str, number: int) -> None:
        self.name, self.host = f"pg{number}", host
        self.database_port, self.rest_port = 5430 + number, 8430 + number
        self.folder = folder / self.name
        self.folder.mkdir()
        self._file, self.log = self.folder / "patroni.yml", self.folder / "log"
        self._file.write_text(json.dumps(self._config(consul)))  # JSON is YAML, too.
        self._process: subprocess.Popen[bytes] | None = None

    def _config(self, consul: str) -> dict[str, Any]:
        # Consul's defaults demand no password of local connections.
        access = ["local all all trust", "host all all 127.0.0.0/8 trust"]
        replication = "host replication all 127.0.0.0/8 trust"
        users = {
            "superuser": {"username": "postgres", "password": "secret"},
            "replication": {"username": "replicator", "password": "secret"},
        }
        return {
            "scope": "demo",
            "name": self.name,
            "restapi": {
                "listen": f"{self.host}:{self.rest_port}",
                "connect_address": f"{self.host}:{self.rest_port}",
            },
            "consul": {"host": f"{consul}:8500", "register_service": True},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL,
                    "loop_wait": 2,
                    "retry_timeout": 5,
                    "maximum_lag_on_failover": 1048576,
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync"],
                "pg_hba": [*access, replication],
            },
            "postgresql": {
                "listen": f"{self.host}:{self.database_port}",
                "connect_address": f"{self.host}:{self.database_port}",
                "data_dir": str(self.folder / "data"),
                "bin_dir": str(POSTGRES),
                "pgpass": str(self.folder / "pgpass"),
                "authentication": users,
                "parameters": {
                    "unix_socket_directories": str(self.folder),
                    "shared_buffers": "16MB",
                    "max_connections": 20,
                    "fsync": "off",
                },
            },
        }

    def start(self) -> None:
        """Start it, as the user that PostgreSQL runs as."""
        user = pwd.getpwnam("postgres")
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["patroni", str(self._file)],
                stdout=log,
                stderr=subprocess.STDOUT,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL Patroni and its PostgreSQL, as if the machine were gone."""
        if self._process is None:
            return
        subprocess.run(["pkill", "-KILL", "-s", str(self._process.pid)], check=False)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        pid = self.folder / "data" / "postmaster.pid"
        if pid.exists():  # PostgreSQL made a session of its own.
            with suppress(ProcessLookupError):
                os.kill(int(pid.read_text().split()[0]), signal.SIGKILL)

    def cluster(self) -> dict[str, tuple[str, str]]:
        """Role and state of each member, as this one sees it."""
        url = f"http://{self.host}:{self.rest_port}/cluster"
        with urllib.request.urlopen(url, timeout=5) as answer:
            members = json.load(answer)["members"]
        return {each["name"]: (each["role"], each["state"]) for each in members}

    def sql(self, statement: str) -> str:
        """Result of a statement."""
        done = subprocess.run(
            [
                *(str(POSTGRES / "psql"), "-h", self.host, "-p", str(self.database_port)),
                *("-U", "postgres", "-Atc", statement),
            ],
            capture_output=True,
            text=True,
            timeout=20,
            env={"PGPASSWORD": "secret"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def agent(tmp_path: Path, worker_id: str) -> Iterator[AgentProcess]:
    number = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 0
    process = AgentProcess(tmp_path, f"127.61.{number}.1", ports={"dns": 8600})
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.kill()


@pytest.fixture
def members(agent: AgentProcess) -> Iterator[list[Member]]:
    host = agent.host.removesuffix(".1") + ".2"
    # PostgreSQL's user has to reach its data; pytest's own directories are root's alone.
    with tempfile.TemporaryDirectory(prefix="isthmus-patroni-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = [Member(folder, host, agent.host, number) for number in (0, 1)]
        try:
            yield made
        finally:
            for member in made:
                member.kill()
                if member.log.exists():  # Shown when the test fails.
                    print(f"==== {member.name}\n{member.log.read_text()[-4000:]}")


def passing(agent: AgentProcess, tag: str) -> list[str]:
    """Ids of the passing instances of the database with a tag."""
    found = agent.get(f"/v1/health/service/demo?passing&tag={tag}")
    return [instance["Service"]["ID"] for instance in found]


def resolved(agent: AgentProcess, name: str) -> list[str]:
    """Target ports of a name's SRV records."""
    done = subprocess.run(
        ["dig", f"@{agent.host}", "-p", "8600", "+short", "SRV", name],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stdout
    return [line.split()[2] for line in done.stdout.splitlines()]


def test_database_is_elected_replicated_and_fails_over(
    agent: AgentProcess, members: list[Member]
) -> None:
    first, second = members
    first.start()
    formed = {"pg0": ("leader", "running")}
    eventually(lambda: first.cluster() == formed, timeout=FORM_TIMEOUT, what="first member leads")
    second.start()
    formed["pg1"] = ("replica", "running")
    states = (formed, formed | {"pg1": ("replica", "streaming")})
    eventually(lambda: first.cluster() in states, timeout=FORM_TIMEOUT, what="replica runs")

    first.sql("create table facts (fact text)")
    first.sql("insert into facts values ('kept')")
    eventually(
        lambda: second.sql("select fact from facts") == "kept", timeout=60, what="replicated"
    )
    eventually(lambda: len(passing(agent, "master")) == 1, timeout=60, what="master registered")
    eventually(lambda: len(passing(agent, "replica")) == 1, timeout=60, what="replica registered")
    assert resolved(agent, "master.demo.service.consul") == [str(first.database_port)]
    assert resolved(agent, "replica.demo.service.consul") == [str(second.database_port)]
    (lock,) = agent.get("/v1/kv/service/demo/leader")
    session = lock["Session"]
    assert agent.get(f"/v1/session/info/{session}")[0]["Behavior"] == "delete"

    first.kill()
    eventually(
        lambda: second.cluster().get("pg1", ("", ""))[0] == "leader",
        timeout=TTL + MARGIN,
        what="failed over within the time to live",
    )
    (lock,) = agent.get("/v1/kv/service/demo/leader")
    assert lock["Session"] != session
    eventually(lambda: second.sql("select pg_is_in_recovery()") == "f", timeout=60, what="promoted")
    assert second.sql("select fact from facts") == "kept"
    second.sql("insert into facts values ('written after')")

    def follows() -> bool:
        return resolved(agent, "master.demo.service.consul") == [str(second.database_port)]

    eventually(follows, timeout=60, what="the name follows the leader")

    first.start()  # It comes back, and follows.
    eventually(
        lambda: first.sql("select count(*) from facts where fact = 'written after'") == "1",
        timeout=FORM_TIMEOUT,
        what="the old leader replicates",
    )
    assert second.cluster()["pg0"][0] == "replica"
