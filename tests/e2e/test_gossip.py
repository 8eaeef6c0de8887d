"""Gossip of two federated agents as processes: user events, and keys that are rotated."""

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.federation import Federation
from support.netns import Sites
from support.processes import ISTHMUS, eventually, shown_on_failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ADDRESSES = {"dc1": "127.88.9.1", "dc2": "127.88.9.2"}
FIRST, SECOND, THIRD = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))
FAST = {"gossip_interval": "50ms", "probe_interval": "1s", "probe_timeout": "500ms"}


class Pair:
    """An agent in each of two datacenters; their servers dial each other.

    Args:
        folder: For configuration, data and logs.
        gossip: Configuration of gossip beyond its pace.
    """

    def __init__(self, folder: Path, **gossip: Any) -> None:
        self.folder = folder
        self.agents = {dc: self._start(dc, **gossip) for dc in ADDRESSES}

    def restart(self, dc: str, **gossip: Any) -> None:
        """Stop an agent, and start it with another configuration of gossip."""
        self.agents[dc].process.stop()
        self.agents[dc] = self._start(dc, **gossip)

    def _start(self, dc: str, **gossip: Any) -> AgentProcess:
        return AgentProcess(
            self.folder,
            ADDRESSES[dc],
            server=True,
            bootstrap=True,
            datacenter=dc,
            primary_datacenter="dc1",
            node_name=f"{dc}s",
            data_dir=str(self.folder / f"data-{dc}"),
            retry_join_wan=[ADDRESSES["dc1"]],
            retry_interval_wan="300ms",
            gossip_lan=FAST,
            gossip_wan=FAST,
            **gossip,
        )

    def federated(self) -> bool:
        """Whether each sees the other alive, and calls reach it."""
        for agent in self.agents.values():
            members = agent.get("/v1/agent/members?wan=1")
            assert [member["Status"] for member in members] == [1, 1]
            assert all(agent.get(f"/v1/catalog/nodes?dc={dc}") for dc in ADDRESSES)
        return True

    def wait_until_federated(self) -> None:
        """Wait until each sees the other alive, and calls reach it."""
        with shown_on_failure(*(agent.process for agent in self.agents.values())):
            eventually(self.federated, timeout=40, every=0.05, what="two datacenters federated")

    def isthmus(self, dc: str, *args: str) -> "subprocess.CompletedProcess[str]":
        """Run a command against the agent of a datacenter."""
        return subprocess.run(
            [*ISTHMUS, *args],
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
            env={"CONSUL_HTTP_ADDR": f"{ADDRESSES[dc]}:8500", "PATH": "/usr/bin:/bin"},
        )

    def kept_keys(self, dc: str) -> dict[str, Any]:
        """The keyring files of a datacenter's agent."""
        serf = self.folder / f"data-{dc}" / "serf"
        return {path.name: json.loads(path.read_text()) for path in sorted(serf.glob("*.keyring"))}


@contextmanager
def running(folder: Path, **gossip: Any) -> Iterator[Pair]:
    pair = Pair(folder, **gossip)
    try:
        pair.wait_until_federated()
        yield pair
    finally:
        for agent in pair.agents.values():
            agent.kill()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two encrypted datacenters."""
    with running(tmp_path, encrypt=FIRST) as pair:
        yield pair


def listed(text: str) -> dict[str, list[str]]:
    """What ``keyring -list`` printed, by pool."""
    pools: dict[str, list[str]] = {}
    for line in text.splitlines()[1:]:
        if line.endswith(":"):
            pools[line.removesuffix(":")] = []
        elif line:
            pools[list(pools)[-1]].append(line.strip())
    return pools


def test_events_stay_in_the_datacenter_that_they_are_fired_in(pair: Pair) -> None:
    here, there = pair.agents["dc1"], pair.agents["dc2"]
    body = json.dumps({"Name": "web", "Tags": ["blue"], "Port": 80}).encode()
    assert there.request("PUT", "/v1/agent/service/register", body)[0] == 200

    def fire(*args: str) -> None:
        fired = pair.isthmus("dc1", "event", "-datacenter=dc2", *args)
        assert (fired.returncode, fired.stderr) == (0, "")
        assert fired.stdout.startswith("Event ID: ")

    fire("-name=deploy", "-service=^web$", "-tag=blue", "v2")
    (event,) = eventually(lambda: there.get("/v1/event/list"), timeout=5, every=0.02)
    assert base64.b64decode(event["Payload"]) == b"v2"
    assert (event["Name"], event["ServiceFilter"], event["Version"]) == ("deploy", "^web$", 1)
    fire("-name=deploy", "-service=^db$")  # Nobody there has such a service.

    _, _, headers = there.request("GET", "/v1/event/list?name=next")
    assert headers["X-Consul-Index"] == "1"
    waited: list[Any] = []

    def wait() -> None:
        waited.extend(there.get("/v1/event/list?name=next&index=1&wait=20s", timeout=25))

    waiting = threading.Thread(target=wait)
    waiting.start()
    fire("-name=next")
    waiting.join(10)
    assert [one["Name"] for one in waited] == ["next"]
    assert [one["Name"] for one in there.get("/v1/event/list")] == ["deploy", "next"]
    assert here.get("/v1/event/list") == []


def test_keys_are_rotated_in_all_datacenters_and_one_that_is_down_is_named(pair: Pair) -> None:
    def keyring(*args: str) -> str:
        run = pair.isthmus("dc1", "keyring", *args)
        assert (run.returncode, run.stderr) == (0, ""), run.stdout
        return run.stdout

    assert listed(keyring("-list")) == {
        "WAN": [f"{FIRST} [2/2]"],
        "dc1 (LAN)": [f"{FIRST} [1/1]"],
        "dc2 (LAN)": [f"{FIRST} [1/1]"],
    }
    keyring(f"-install={SECOND}")
    keyring(f"-use={SECOND}")
    keyring(f"-remove={FIRST}")
    assert listed(keyring("-list-primary", "-local-only")) == {"dc1 (LAN)": [f"{SECOND} [1/1]"]}
    for dc in ADDRESSES:
        kept = {"local.keyring": [SECOND], "remote.keyring": [SECOND]}
        assert pair.kept_keys(dc) == kept

    there = pair.agents["dc2"]
    there.kill()
    there.restart()  # Its configuration still says the first key, which nobody has any more.
    pair.wait_until_federated()
    assert "encrypt names a key that the WAN keyring lacks" in there.process.output()

    there.kill()
    status, answer, _ = pair.agents["dc1"].request("GET", "/v1/operator/keyring", timeout=40)
    assert status == 200
    pools = json.loads(answer)
    assert [(one["Datacenter"], one["WAN"]) for one in pools] == [
        ("dc1", True), ("dc1", False), ("dc2", False),
    ]  # fmt: skip
    assert pools[1]["Keys"] == {SECOND: 1}
    assert pools[2]["Error"]
    assert "dc2" in pools[2]["Messages"]["dc2"]

    failed = pair.isthmus("dc1", "keyring", f"-install={THIRD}")
    assert failed.returncode == 1
    assert "* dc2 (LAN) error: " in failed.stderr
    assert "done in: " in failed.stderr
    assert "dc1 (LAN) (1 member)" in failed.stderr
    assert pair.kept_keys("dc1")["local.keyring"] == [SECOND, THIRD]


def test_datacenter_that_missed_a_rotation_is_brought_back_from_inside(pair: Pair) -> None:
    """docs/operations.md, "A datacenter that was cut off meanwhile"."""
    pair.agents["dc2"].kill()
    for change in (f"-install={SECOND}", f"-use={SECOND}", f"-remove={FIRST}"):
        assert "dc2" in pair.isthmus("dc1", "keyring", change).stderr
    assert pair.kept_keys("dc1")["remote.keyring"] == [SECOND]

    back = pair.agents["dc2"]
    back.restart()
    back.wait_until_ready()
    members = back.get("/v1/agent/members?wan=1")
    assert [one["Name"] for one in members if one["Status"] == 1] == ["dc2s.dc2"]
    pair.isthmus("dc2", "keyring", f"-install={SECOND}")
    pair.isthmus("dc2", "keyring", f"-use={SECOND}")
    pair.wait_until_federated()
    removed = pair.isthmus("dc1", "keyring", f"-remove={FIRST}")
    assert (removed.returncode, removed.stderr) == (0, "")
    assert pair.kept_keys("dc2") == {"local.keyring": [SECOND], "remote.keyring": [SECOND]}


def test_encryption_is_switched_on_in_a_running_federation(tmp_path: Path) -> None:
    """docs/operations.md, "Switch encryption on"."""
    understand = {"encrypt_verify_incoming": False, "encrypt_verify_outgoing": False}
    speak = {"encrypt_verify_incoming": False}
    with running(tmp_path) as pair:
        refused = pair.isthmus("dc1", "keyring", "-list")
        assert refused.returncode == 1
        assert "Keyring is empty (encryption not enabled)" in refused.stderr
        for step in (understand, speak, {}):
            for dc in ADDRESSES:
                pair.restart(dc, encrypt=FIRST, **step)
                pair.wait_until_federated()
        shown = pair.isthmus("dc2", "keyring", "-list")
        assert listed(shown.stdout)["WAN"] == [f"{FIRST} [2/2]"]
        pair.restart("dc2", disable_keyring_file=True)  # As if it had never been told.
        left_out = pair.agents["dc2"].process
        text = "Remote state is encrypted and encryption is not configured"
        with shown_on_failure(left_out):
            eventually(lambda: text in left_out.output(), timeout=10, what="join is refused")
        members = pair.agents["dc2"].get("/v1/agent/members?wan=1")
        assert [one["Name"] for one in members if one["Status"] == 1] == ["dc2s.dc2"]


@pytest.mark.namespaces
def test_keys_are_rotated_through_gateways_and_who_is_cut_off_catches_up(
    sites: Sites, tmp_path: Path
) -> None:
    federation = Federation(sites, tmp_path)
    try:
        for site in sites.sites:
            federation.start_server(site, encrypt=FIRST)
            federation.start_gateway(site)
        federation.wait_until_formed()
        _, second, third = sites.sites
        expected = {"WAN": [f"{SECOND} [3/3]"]}
        expected |= {f"{site.name} (LAN)": [f"{SECOND} [1/1]"] for site in sites.sites}

        def keyring(*args: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                second.command(*ISTHMUS, "keyring", f"-http-addr={second.server}:8500", *args),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        with shown_on_failure(*federation.processes()):
            sites.cut(third)
            failed = keyring(f"-install={SECOND}")
            assert failed.returncode == 1
            assert f"* {third.name} (LAN) error: " in failed.stderr
            assert f"* {third.name}: " in failed.stderr
            done = failed.stderr.partition("done in: ")[2]
            assert f"{second.name} (LAN) (1 member), {sites.sites[0].name} (LAN) (1 member)" in done
            sites.heal(third)
            eventually(lambda: keyring(f"-install={SECOND}").returncode == 0, timeout=40)
            for step in ("use", "remove"):
                changed = keyring(f"-{step}={SECOND if step == 'use' else FIRST}")
                assert (changed.returncode, changed.stderr) == (0, "")
            assert listed(keyring("-list").stdout) == expected
        assert sites.dropped("servers") == 0
    finally:
        federation.stop()
