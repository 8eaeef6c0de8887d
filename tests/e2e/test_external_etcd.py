"""An etcd that somebody else runs: TLS both ways, users and roles, two datacenters in it."""

import base64
import http.client
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Authority
from support.datacenter import Datacenter
from support.etcd import etcd_missing, free_ports
from support.processes import Process, eventually, shown_on_failure
from support.writing import Writers, check_datacenter

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "etcd is there"),
]

ROOT_PASSWORD = "of-root"
READ_AND_WRITE = 2


class ExternalEtcd:
    """One member with its data on the disk, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        authority = Authority(folder / "etcd-certificates", name="Storage CA")
        self._server = authority.issue("localhost")
        self.client = authority.issue("isthmus")
        self._port, self._peer_port = free_ports(2)
        self._process: Process | None = None

    @property
    def endpoint(self) -> str:
        """``host:port`` of the name that its certificate is for."""
        return f"localhost:{self._port}"

    @property
    def process(self) -> Process:
        """Its process."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it answers."""
        own = self._server
        peer = f"http://127.0.0.1:{self._peer_port}"
        self._process = Process(
            [
                "etcd",
                "--name=only",
                f"--data-dir={self._folder / 'etcd'}",
                f"--listen-client-urls=https://127.0.0.1:{self._port}",
                f"--advertise-client-urls=https://{self.endpoint}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=only={peer}",
                f"--cert-file={own.cert_file}",
                f"--key-file={own.key_file}",
                f"--trusted-ca-file={own.ca_file}",
                "--client-cert-auth",
            ],
            self._folder / "etcd.log",
        )
        eventually(lambda: self._health() == 200, timeout=30, what="etcd answers")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.stop(signal.SIGKILL)

    def demand_passwords(self, **prefixes: str) -> None:
        """Turn access control on: user → the only prefix that it may use, its name the password."""
        self._ask("auth/user/add", name="root", password=ROOT_PASSWORD)
        self._ask("auth/user/grant", user="root", role="root")
        for user, prefix in prefixes.items():
            start = prefix.encode()
            end = start[:-1] + bytes([start[-1] + 1])
            self._ask("auth/user/add", name=user, password=user)
            self._ask("auth/role/add", name=user)
            permission = {"permType": READ_AND_WRITE, "key": _text(start), "range_end": _text(end)}
            self._ask("auth/role/grant", name=user, perm=permission)
            self._ask("auth/user/grant", user=user, role=user)
        self._ask("auth/enable")

    def storage(self, datacenter: str, **more: Any) -> dict[str, Any]:
        """The ``storage`` part of a server's configuration."""
        return {
            "engine": "etcd",
            "endpoints": [self.endpoint],
            "ca_file": str(self.client.ca_file),
            "cert_file": str(self.client.cert_file),
            "key_file": str(self.client.key_file),
            "username": datacenter,
            "password": datacenter,
            "prefix": f"/isthmus/{datacenter}/",
            "lease_ttl": "3s",
            **more,
        }

    def _ask(self, path: str, **body: object) -> None:
        status, answer = self._request("POST", f"/v3/{path}", json.dumps(body))
        assert status == 200, (path, status, answer)

    def _health(self) -> int:
        return self._request("GET", "/health")[0]

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, context=self.client.context(), timeout=10
        )
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def running_etcd(folder: Path) -> Iterator[ExternalEtcd]:
    etcd = ExternalEtcd(folder)
    etcd.start()
    try:
        yield etcd
    finally:
        etcd.kill()


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_two_datacenters_share_an_etcd_that_is_killed_and_started_again(tmp_path: Path) -> None:
    """Nothing is lost, and neither sees anything of the other."""
    with running_etcd(tmp_path) as etcd:
        etcd.demand_passwords(dc1="/isthmus/dc1/", dc2="/isthmus/dc2/")
        with (
            Datacenter(tmp_path, 2, name="a", datacenter="dc1", storage=etcd.storage("dc1")) as one,
            Datacenter(tmp_path, 1, name="b", datacenter="dc2", storage=etcd.storage("dc2")) as two,
        ):
            one.start()
            two.start()
            with shown_on_failure(etcd.process, *one.processes(), *two.processes()):
                hurt_etcd(etcd, one, two)
                hurt_agents(one, two)


def hurt_etcd(etcd: ExternalEtcd, one: Datacenter, two: Datacenter) -> None:
    with Writers(one) as in_one, Writers(two, name="v") as in_two:
        for _ in range(2):
            before = in_one.acknowledged_count, in_two.acknowledged_count
            eventually(lambda: in_one.acknowledged_count > before[0] + 50, timeout=60)  # noqa: B023
            eventually(lambda: in_two.acknowledged_count > before[1] + 50, timeout=60)  # noqa: B023
            etcd.kill()
            for server in (*one.servers, *two.servers):
                eventually(
                    lambda server=server: server.request("GET", "/v1/kv/x", timeout=20)[0] == 500,  # type: ignore[misc]
                    timeout=30,
                    what=f"{server.name} has no leader",
                )
                assert server.request("GET", "/v1/catalog/nodes?stale")[0] == 200
            etcd.start()
        etcd.kill()
        etcd.start()  # So soon that connections come back by themselves, with tokens of before.
    check_datacenter(one, in_one)
    check_datacenter(two, in_two)
    assert two.servers[0].request("GET", "/v1/kv/w0/?recurse")[0] == 404
    assert one.servers[0].request("GET", "/v1/kv/v0/?recurse")[0] == 404


def hurt_agents(one: Datacenter, two: Datacenter) -> None:
    leader = one.leader()
    (follower,) = one.followers()
    leader.kill()
    # Its lease has to run out first.
    eventually(lambda: follower.put("formed/lease"), timeout=60, what="the other leads")
    leader.start()
    one.wait_until_formed()
    before = one.wait_until_equal()["kv/?recurse"]
    for server in (*one.servers, *two.servers):
        assert server.stop() == 0
    for server in (*one.servers, *two.servers):
        server.start()
    one.wait_until_formed()
    two.wait_until_formed()
    keys = {row["Key"] for row in one.wait_until_equal()["kv/?recurse"]}
    assert keys >= {row["Key"] for row in before}


def test_user_without_the_right_and_a_prefix_of_another_datacenter_are_refused(
    tmp_path: Path,
) -> None:
    with running_etcd(tmp_path) as etcd:
        etcd.demand_passwords(dc1="/isthmus/dc1/", dc2="/isthmus/dc2/")
        with Datacenter(
            tmp_path, 1, name="a", datacenter="dc1", storage=etcd.storage("dc1")
        ) as one:
            one.start()
        for number, (datacenter, more, told) in enumerate(
            (
                (
                    "dc1",
                    {"prefix": "/isthmus/dc2/"},
                    "read and write all keys under storage.prefix",
                ),
                ("dc1", {"password": "wrong"}, "check storage.username and password"),
                ("dc2", {"username": "dc1", "password": "dc1", "prefix": "/isthmus/dc1/"}, "dc1"),
                ("dc1", {"cert_file": "", "key_file": ""}, "check storage.cert_file"),
            )
        ):
            storage = etcd.storage(datacenter, **more)
            with Datacenter(
                tmp_path, 1, name=f"r{number}", datacenter=datacenter, storage=storage
            ) as refused:
                (server,) = refused.servers
                server.start()
                eventually(
                    lambda server=server, told=told: told in server.process.output(),  # type: ignore[misc]
                    timeout=60,
                    what=f"is told: {told}",
                )
                assert "Traceback" not in server.process.output()
