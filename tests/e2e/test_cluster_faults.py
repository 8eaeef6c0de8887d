"""Three servers keep what they acknowledged, whatever happens to one of them, or to all.

Each test hurts a datacenter of real processes while writers write through every server, and then
compares: every acknowledged write is there, whole and at an index of its own, and the tables of
all servers are equal. The times are printed (``pytest -s`` or ``-rP``).
Source: design of storage, §12.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from support import netns
from support.commits import history_of
from support.datacenter import Datacenter, ServerProcess
from support.etcd import etcd_missing
from support.processes import ISTHMUS, eventually, shown_on_failure
from support.writing import Writers, check_datacenter

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "all there"),
]

UNDER_WAY_MAX = 1.0
"""Seconds in which a write that was committed before a cut may still be answered by its agent."""
SETTLE = 1.0
"""Seconds of undisturbed writing before a fault and after its end."""
FAILOVER_MAX = 6.0
"""Generous bound of a gap between acknowledged writes on a busy machine; §3 of the figures is
measured by the benchmark."""

STABILIZATION_TIME = 10.0
"""Consul's: a server that joins must be alive for so long before it votes."""
HEAL_MAX = 12.0
"""Generous bound of the time in which a server that was cut off is let in again; 2 s are usual."""

QUOTA = 16 * 1024 * 1024
BIG = 400_000

PAUSE = 12.0
PAUSE_GAP_MAX = 4.5
"""Bound of a gap while an etcd is paused: an election, and a little to notice it; about 2 s."""


def wait(seconds: float) -> None:
    """Let a fault last."""
    time.sleep(seconds)


def test_leader_is_killed(datacenter: Datacenter) -> None:
    leader = datacenter.leader()
    with Writers(datacenter) as writers:
        wait(SETTLE)
        killed = time.monotonic()
        leader.kill()
        wait(FAILOVER_MAX)
        leader.start()
        back = time.monotonic()
        eventually(lambda: leader.is_back("formed/back"), timeout=30, what="the killed one is back")
        print(f"back after {time.monotonic() - back:.2f} s")
        wait(SETTLE)
    print(f"gap {writers.gap(after=killed, before=back):.2f} s")
    assert writers.gap(after=killed - SETTLE, before=time.monotonic()) <= FAILOVER_MAX
    check_datacenter(datacenter, writers)


def test_follower_is_killed(datacenter: Datacenter) -> None:
    leader, *_ = datacenter.leader(), None
    follower, other = datacenter.followers()
    with Writers(datacenter, through=[leader, other]) as writers:
        wait(SETTLE)
        killed = time.monotonic()
        follower.kill()
        wait(3)
        follower.start()
        eventually(
            lambda: follower.is_back("formed/back"), timeout=30, what="the killed one is back"
        )
        wait(SETTLE)
    print(f"gap {writers.gap(after=killed):.2f} s")
    assert not writers.errors()
    assert writers.gap(after=killed) <= 2.0
    check_datacenter(datacenter, writers)


@pytest.mark.parametrize("etcd", [False, True], ids=["agent", "agent-and-etcd"])
def test_leader_is_paused_and_then_can_commit_nothing(datacenter: Datacenter, etcd: bool) -> None:
    """What reaches the old leader while it sleeps, and as it wakes, is not committed by it."""
    leader = datacenter.leader()
    first, second = datacenter.followers()
    with Writers(datacenter, through=[first, second]) as writers:
        wait(SETTLE)
        paused = time.monotonic()
        leader.signal(signal.SIGSTOP, etcd=etcd)
        with Writers(
            datacenter, through=[leader], count=8, timeout=40.0, name="paused"
        ) as late:  # Its kernel accepts what it will read when it wakes.
            wait(20)
            gap = writers.gap(after=paused, before=time.monotonic())
            new = datacenter.leader(asked=first)
            assert new is not leader
            leader.signal(signal.SIGCONT, etcd=etcd)
            wait(3)
    print(f"gap {gap:.2f} s")
    # A paused agent with a living etcd holds the lease until it runs out.
    assert gap <= (FAILOVER_MAX if etcd else 16.0)
    assert "does not lead any more" in leader.process.output()
    check_datacenter(datacenter, writers, late)
    history = history_of(first)
    history.check()
    nodes = [node for _, _, node in history.claims]
    assert leader.name in nodes
    assert new.name in nodes[nodes.index(leader.name) :]


def test_etcd_of_the_leader_is_killed(datacenter: Datacenter) -> None:
    leader = datacenter.leader()
    with Writers(datacenter) as writers:
        wait(SETTLE)
        killed = time.monotonic()
        before = leader.etcd_pid
        os.kill(before, signal.SIGKILL)
        wait(FAILOVER_MAX)
        assert leader.is_running
        assert leader.etcd_pid != before
    print(f"gap {writers.gap(after=killed, before=killed + FAILOVER_MAX):.2f} s")
    assert writers.gap(after=killed, before=killed + FAILOVER_MAX) <= FAILOVER_MAX
    check_datacenter(datacenter, writers)


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_etcd_is_paused_beside_a_living_agent(datacenter: Datacenter, role: str) -> None:
    """The agent notices, and has another server answer; its clients need not go elsewhere."""
    leader = datacenter.leader()
    paused = leader if role == "leader" else datacenter.followers()[0]
    others = [server for server in datacenter.servers if server is not paused]
    with (
        Writers(datacenter, through=others) as writers,
        Writers(datacenter, through=[paused], name="paused") as inside,
    ):
        wait(SETTLE)
        began = time.monotonic()
        paused.signal(signal.SIGSTOP, agent=False, etcd=True)
        wait(PAUSE)
        ended = time.monotonic()
        gaps = [each.gap(after=began, before=ended) for each in (writers, inside)]
        refused = sum(len(journal.errors) for journal in inside.journals)
        for read in ("", "?consistent"):
            assert paused.request("GET", f"/v1/kv/formed/s1{read}")[0] == 200
        contacts = [last_contact(server) for server in (paused, *others)]
        paused.signal(signal.SIGCONT, agent=False, etcd=True)
        wait(3)
    print(f"gap {gaps[0]:.2f} s, through the server whose etcd is paused {gaps[1]:.2f} s")
    # A commit on its way takes 5 s to be given up by itself, and calls wait 7 s for a leader.
    assert max(gaps) <= PAUSE_GAP_MAX
    assert refused <= 2, inside.errors()
    assert contacts[0] > PAUSE - 5 > max(contacts[1:]), contacts
    check_datacenter(datacenter, writers, inside)
    history_of(others[0]).check()


def last_contact(server: ServerProcess) -> float:
    """Seconds since a server heard of the leader, as its answer to a stale read says."""
    status, _, headers = server.request("GET", "/v1/kv/formed/s1?stale")
    assert status == 200
    (milliseconds,) = [v for k, v in headers.items() if k.lower() == "x-consul-lastcontact"]
    return int(milliseconds) / 1000


def test_majority_is_lost_and_comes_back(datacenter: Datacenter) -> None:
    leader = datacenter.leader()
    first, second = datacenter.followers()
    with Writers(datacenter) as writers:
        wait(SETTLE)
        first.kill()
        leader.kill()
        lost = time.monotonic()
        wait(4)
        assert not [
            moment
            for journal in writers.journals
            for moment in list(journal.acknowledged.values())
            if lost + 0.1 < moment
        ], "acknowledged without a majority"
        assert second.request("GET", "/v1/kv/?recurse&stale")[0] == 200
        first.start()
        back = time.monotonic()
        wait(FAILOVER_MAX + 4)
        print(f"first write {writers.next_acknowledged(back) - back:.2f} s after the majority")
        leader.start()
        wait(SETTLE)
    check_datacenter(datacenter, writers)


def test_all_are_killed_and_started_in_any_order(datacenter: Datacenter) -> None:
    with Writers(datacenter) as writers:
        for order in ((1, 2, 0), (2, 0, 1)):
            wait(SETTLE)
            for server in datacenter.servers:
                server.process.send(signal.SIGKILL)
            for server in datacenter.servers:
                server.kill()
            started = time.monotonic()
            for index in order:
                datacenter.servers[index].start()
                wait(0.7)
            datacenter.wait_until_formed()
            print(f"all take writes after {time.monotonic() - started:.2f} s")
    check_datacenter(datacenter, writers)


def test_rolling_restart(datacenter: Datacenter) -> None:
    with Writers(datacenter) as writers:
        wait(SETTLE)
        began = time.monotonic()
        for server in datacenter.servers:
            assert server.stop() == 0
            server.start()
            eventually(
                lambda server=server: server.is_back("formed/rolled"),  # type: ignore[misc]
                timeout=30,
                what=f"{server.name} is back",
            )
            wait(SETTLE)
    print(f"gap {writers.gap(after=began):.2f} s")
    assert writers.gap(after=began) <= FAILOVER_MAX
    # Who writes through the server that stops goes to another one; nobody else is told an error.
    assert not [error for error in writers.errors() if error.startswith("500")]
    check_datacenter(datacenter, writers)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_disk_of_the_leader_is_full_and_then_is_not(tmp_path: Path) -> None:
    with ExitStack() as stack:
        datacenter = Datacenter(tmp_path)
        for server in datacenter.servers:
            stack.enter_context(small_disk(server.data_dir))
        stack.enter_context(datacenter)
        datacenter.start()
        stack.enter_context(shown_on_failure(*datacenter.processes()))
        leader = datacenter.leader()
        member = leader.etcd_pid
        with Writers(datacenter, through=datacenter.followers(), count=4) as writers:
            wait(SETTLE)
            full = time.monotonic()
            filler = leader.data_dir / "filler"
            fill(filler)
            eventually(
                lambda: (
                    datacenter.leader(asked=datacenter.servers[0]) is not leader
                    or not has_process(member)
                ),
                timeout=30,
                what="etcd misses the space",
            )
            wait(FAILOVER_MAX)
            assert leader.is_running
            room = time.monotonic()
            print(f"gap {writers.gap(after=full, before=room):.2f} s")
            assert writers.gap(after=full, before=room) <= FAILOVER_MAX
            filler.unlink()
            eventually(lambda: leader.is_back("formed/room"), timeout=60, what="its server is back")
            print(f"back {time.monotonic() - room:.2f} s after there was room")
        check_datacenter(datacenter, writers)


def test_database_reaches_its_quota_and_takes_writes_again(tmp_path: Path) -> None:
    """Each server forgets the history and defragments its own etcd; nobody has to do anything."""
    with Datacenter(tmp_path) as datacenter:
        for server in datacenter.servers:
            server.config["storage"]["etcd"]["quota_bytes"] = QUOTA
        datacenter.start()
        with shown_on_failure(*datacenter.processes()), Writers(datacenter) as writers:
            filler, rng = datacenter.servers[0], Random(1)
            for _ in range(4 * QUOTA // BIG):
                answer = filler.request("PUT", "/v1/kv/formed/big", rng.randbytes(BIG))
                if answer[0] != 200:
                    break
            full = time.monotonic()
            assert b"space exceeded" in answer[1]
            eventually(lambda: filler.put("formed/room"), timeout=60, what="there is room")
            print(f"takes writes {time.monotonic() - full:.2f} s after it was full")
            # The key that filled it was written more than once.
            assert filler.request("DELETE", "/v1/kv/formed/big", timeout=30)[0] == 200
            wait(SETTLE)
        check_datacenter(datacenter, writers)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own for a folder."""
    folder.mkdir(parents=True)
    netns.run("mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(file: Path) -> None:
    """Write until there is no room."""
    with file.open("wb", buffering=0) as output, suppress(OSError):
        while True:
            output.write(bytes(1024 * 1024))
    with file.open("ab", buffering=0) as output, suppress(OSError):
        while True:
            output.write(bytes(512))


def has_process(pid: int) -> bool:
    """Whether a process has not ended."""
    return Path(f"/proc/{pid}").exists()


@pytest.mark.namespaces
@pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "all there")
def test_leader_is_cut_off_until_it_is_removed_and_joins_again(tmp_path: Path) -> None:
    """Its clients are refused, those of the others notice a pause; 40 s later it is a newcomer."""
    with netns.Lan(3) as lan, Datacenter(tmp_path, address=lan.address, places=lan.hosts) as found:
        found.start()
        with shown_on_failure(*found.processes()):
            cut_and_heal(lan, found)


def cut_and_heal(lan: netns.Lan, datacenter: Datacenter) -> None:
    leader = datacenter.leader()
    number = datacenter.servers.index(leader) + 1
    others = datacenter.followers()
    with (
        Writers(datacenter, through=others) as writers,
        Writers(datacenter, through=[leader], name="cut") as inside,
    ):
        wait(SETTLE)
        lan.cut(number)
        cut = time.monotonic()
        eventually(
            lambda: leader.request("GET", "/v1/kv/formed/s1", timeout=15)[0] == 500,
            timeout=30,
            what="a leader that is cut off refuses reads",
        )
        print(f"reads refused {time.monotonic() - cut:.2f} s after the cut")
        assert leader.request("GET", "/v1/kv/formed/s1?stale")[0] == 200
        eventually(
            lambda: leader.name not in datacenter.voters(others[0]).values(),
            timeout=60,
            what="it is removed",
        )
        healed = time.monotonic()
        lan.heal(number)
        print(f"gap {writers.gap(after=cut, before=healed):.2f} s")
        assert writers.gap(after=cut, before=healed) <= FAILOVER_MAX
        (journal,) = inside.journals
        assert not [
            moment
            for moment in list(journal.acknowledged.values())
            if cut + UNDER_WAY_MAX < moment < healed
        ]
        datacenter.wait_until_voters(*(server.name for server in datacenter.servers))
        votes = time.monotonic() - healed
        print(f"votes again {votes:.2f} s after it was healed")
        # Serf tries one failed member every 30 s; servers look for each other more often.
        assert votes <= STABILIZATION_TIME + HEAL_MAX
        eventually(lambda: leader.is_back("formed/healed"), timeout=30, what="it takes writes")
        wait(SETTLE)
    check_datacenter(datacenter, writers, inside)


def test_leader_leaves_and_a_new_server_takes_its_place(datacenter: Datacenter) -> None:
    leaving = datacenter.leader()
    first, second = datacenter.followers()
    with Writers(datacenter, through=[first, second]) as writers:
        wait(SETTLE)
        began = time.monotonic()
        command = [*ISTHMUS, "leave", "-http-addr", f"{leaving.host}:8500"]
        subprocess.run(command, check=True, timeout=30, capture_output=True)
        assert leaving.process.wait(20) == 0
        datacenter.wait_until_voters(first.name, second.name)
        print(f"removed after {time.monotonic() - began:.2f} s")
        added = datacenter.add(bootstrap_expect=0)
        joined = time.monotonic()
        added.start()
        datacenter.wait_until_voters(first.name, second.name, added.name)
        print(f"the new one votes {time.monotonic() - joined:.2f} s after its start")
        eventually(lambda: added.is_back("formed/new"), timeout=30, what="the new one takes writes")
        leader = datacenter.leader()
        leader.kill()  # Without the new one there would be no majority.
        (other, _) = datacenter.running
        eventually(lambda: other.put("formed/two"), timeout=30, what="two of three go on")
        leader.start()
        wait(SETTLE)
    print(f"gap {writers.gap(after=began, before=joined):.2f} s")
    assert writers.gap(after=began, before=joined) <= 2.0
    check_datacenter(datacenter, writers)


@pytest.mark.parametrize("lost", ["all", "member"])
def test_server_comes_back_with_an_empty_disk(datacenter: Datacenter, lost: str) -> None:
    """Whether it forgot who it is, or only what it had stored."""
    leader = datacenter.leader()
    emptied, _ = datacenter.followers()
    before = datacenter.voters()
    with Writers(datacenter) as writers:
        wait(SETTLE)
        emptied.kill()
        shutil.rmtree(emptied.data_dir / ("" if lost == "all" else "storage/etcd"))
        emptied.start()
        started = time.monotonic()
        eventually(lambda: emptied.is_back("formed/empty"), timeout=60, what="it takes writes")
        print(f"takes writes {time.monotonic() - started:.2f} s after its start")
        datacenter.wait_until_voters(*(server.name for server in datacenter.servers))
        assert (datacenter.voters() == before) == (lost == "member")
        leader.kill()
        wait(FAILOVER_MAX)
        leader.start()
        wait(SETTLE)
    check_datacenter(datacenter, writers)
