"""Every method of python-consul2 that concerns service discovery, against an agent.

Usage: ``PYTHONPATH=DIRECTORY-OF-THE-CLIENT python python_consul2.py HOST``
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import consul  # type: ignore[import-untyped, unused-ignore]

HOST = sys.argv[1]
CLIENT = consul.Consul(host=HOST)
STEPS: list[Callable[[], None]] = []


def step(work: Callable[[], None]) -> Callable[[], None]:
    STEPS.append(work)
    return work


def until(check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := check()):
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.05)
    return found


def refused(work: Callable[[], Any], error: type[Exception] = consul.ConsulException) -> str:
    try:
        work()
    except error as caught:
        return str(caught)
    raise AssertionError("was not refused")


@step
def agent() -> None:
    client = CLIENT.agent
    node = client.self()["Config"]["NodeName"]
    assert [member["Name"] for member in client.members()] == [node]
    assert [member["Name"] for member in client.members(wan=True)] == [f"{node}.dc1"]
    assert client.maintenance(True, "because")
    assert client.checks()["_node_maintenance"]["Notes"] == "because"
    assert client.maintenance(False)
    assert "_node_maintenance" not in client.checks()
    assert client.join(HOST)
    assert "No node found" in refused(lambda: client.force_leave("nobody"))


@step
def agent_services() -> None:
    service = CLIENT.agent.service
    check = consul.Check.ttl("60s")
    assert service.register("web", "web1", "10.0.0.1", 80, ["a"], check=check, meta={"k": "v"})
    found = CLIENT.agent.services()["web1"]
    assert (found["Service"], found["Port"], found["Meta"]) == ("web", 80, {"k": "v"})
    assert service.maintenance("web1", True, "why")
    assert CLIENT.agent.checks()["_service_maintenance:web1"]["Notes"] == "why"
    assert service.maintenance("web1", False)
    assert service.register("gone")
    assert service.deregister("gone")
    assert set(CLIENT.agent.services()) == {"web1"}


@step
def agent_checks() -> None:
    check = CLIENT.agent.check
    assert check.register("live", consul.Check.ttl("60s"), notes="n")
    for method, status in (("pass", "passing"), ("warn", "warning"), ("fail", "critical")):
        assert getattr(check, f"ttl_{method}")("live", notes="said")
        shown = CLIENT.agent.checks()["live"]
        assert (shown["Status"], shown["Output"]) == (status, "said")
    assert check.register("tcp", consul.Check.tcp(HOST, 8500, "1s", timeout="1s"))
    until(lambda: CLIENT.agent.checks()["tcp"]["Status"] == "passing")
    url = f"http://{HOST}:8500/v1/status/leader"
    assert check.register("http", consul.Check.http(url, "1s"))
    until(lambda: CLIENT.agent.checks()["http"]["Status"] == "passing")
    for name in ("live", "tcp", "http"):
        assert check.deregister(name)
    assert not {"live", "tcp", "http"} & set(CLIENT.agent.checks())


@step
def catalog() -> None:
    client = CLIENT.catalog
    service = {"service": "db", "id": "db1", "port": 5432, "tags": ["primary"]}
    check = {"node": "outside", "name": "c", "checkid": "c", "status": "passing"}
    assert client.register("outside", "10.9.9.9", service=service, check=check)
    assert client.datacenters() == ["dc1"]
    index, nodes = client.nodes()
    assert "outside" in {node["Node"] for node in nodes}
    assert int(index) > 0
    assert client.services()[1]["db"] == ["primary"]
    assert client.node("outside")[1]["Services"]["db1"]["Port"] == 5432
    assert client.service("db", tag="primary")[1][0]["ServicePort"] == 5432
    assert client.service("db", tag="other")[1] == []
    refused(lambda: client.nodes(dc="elsewhere"))
    health = CLIENT.health
    assert health.node("outside")[1][0]["CheckID"] == "c"
    assert len(health.service("db", passing=True)[1]) == 1
    assert health.checks("web")[1][0]["CheckID"] == "service:web1"
    assert "serfHealth" in {each["CheckID"] for each in health.state("passing")[1]}
    assert client.deregister("outside", check_id="c")
    assert client.deregister("outside", service_id="db1")
    assert client.deregister("outside")
    assert health.service("db")[1] == []


@step
def key_values() -> None:
    kv = CLIENT.kv
    index, missing = kv.get("missing")
    assert missing is None
    assert int(index) > 0
    assert kv.put("a/b", "hello", flags=7)
    index, found = kv.get("a/b")
    assert (found["Value"], found["Flags"]) == (b"hello", 7)
    assert not kv.put("a/b", "x", cas=1)
    assert kv.put("a/b", "x", cas=found["ModifyIndex"])
    assert kv.put("a/c/d", b"\x00\xff")
    assert kv.get("a/", keys=True)[1] == ["a/b", "a/c/d"]
    assert kv.get("a/", keys=True, separator="/")[1] == ["a/b", "a/c/"]
    assert [each["Value"] for each in kv.get("a/", recurse=True)[1]] == [b"x", b"\x00\xff"]
    later, _ = kv.get("a/b", index=index, wait="10s")
    assert int(later) > int(index)
    assert not kv.delete("a/b", cas=1)
    assert kv.delete("a/", recurse=True)
    assert kv.get("a/", recurse=True)[1] is None


@step
def sessions() -> None:
    client, kv = CLIENT.session, CLIENT.kv
    mine = client.create("s", behavior="delete", ttl=30, lock_delay=1)
    other = client.create("t")
    assert client.info(mine)[1]["TTL"] == "30s"
    assert {mine, other} <= {each["ID"] for each in client.list()[1]}
    node = client.info(mine)[1]["Node"]
    assert {mine, other} <= {each["ID"] for each in client.node(node)[1]}
    assert client.renew(mine)["ID"] == mine
    assert kv.put("lock", "1", acquire=mine)
    assert not kv.put("lock", "2", acquire=other)
    assert kv.put("lock", "3", release=mine)
    assert kv.put("lock", "4", acquire=mine)
    assert client.destroy(mine)
    assert kv.get("lock")[1] is None
    refused(lambda: client.renew(mine), consul.NotFound)
    assert client.destroy(other)


@step
def queries() -> None:
    client = CLIENT.query
    made = client.create("web", name="wq", ttl="5s")
    assert client.get(made["ID"])[0]["DNS"]["TTL"] == "5s"
    assert [each["Name"] for each in client.list()] == ["wq"]
    assert client.update(made["ID"], name="wq", service="web")
    assert client.execute("wq")["Service"] == "web"
    assert client.explain("wq")["Query"]["Name"] == "wq"
    assert client.delete(made["ID"])
    assert client.list() == []


@step
def transactions() -> None:
    done = CLIENT.txn.put(
        [
            {"KV": {"Verb": "set", "Key": "t", "Value": "dg=="}},
            {"KV": {"Verb": "get", "Key": "t"}},
        ]
    )
    assert done["Results"][1]["KV"]["Value"] == "dg=="


@step
def events_and_the_rest() -> None:
    fired = CLIENT.event.fire("deploy", "53")
    until(lambda: fired["ID"] in {each["ID"] for each in CLIENT.event.list("deploy")[1]})
    assert CLIENT.status.leader() == f"{HOST}:8300"
    assert CLIENT.status.peers() == [f"{HOST}:8300"]
    assert CLIENT.coordinate.datacenters()[0]["Datacenter"] == "dc1"
    until(lambda: CLIENT.coordinate.nodes()[1])
    assert CLIENT.operator.raft_config()["Servers"][0]["Leader"]
    assert CLIENT.operator.autopilot.configuration()["CleanupDeadServers"]
    assert CLIENT.operator.autopilot.health()["Healthy"]
    snapshot = CLIENT.snapshot.get()
    assert snapshot is not None


for each in STEPS:
    each()
    print(each.__name__)
