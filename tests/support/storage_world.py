"""Servers that form a storage cluster: real keepers; etcd, disks and the network are played."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from isthmus.agent.storage import StorageKeeper
from isthmus.agent.storage_peers import StorageKeeperConfig
from isthmus.engine.etcd_access import MemberFiles
from isthmus.engine.etcd_api import MESSAGES, CallFailed
from isthmus.engine.etcd_process import EtcdProcess, EtcdProcessConfig, Formation
from isthmus.errors import ConnectionLost, DialFailed, IsthmusError, RemoteError
from isthmus.model.record import Record
from isthmus.model.storage import StorageMember
from isthmus.net.client import ServerTarget
from support.memory_files import MemoryFiles

_EPOCH = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class PlayedMember:
    """A member of a played cluster."""

    number: int
    name: str
    peer_url: str
    is_learner: bool = False


@dataclass
class PlayedCluster:
    """What etcd would know: the members, and keys."""

    token: str
    members: dict[int, PlayedMember] = field(default_factory=dict)
    keys: dict[bytes, bytes] = field(default_factory=dict)


class CrashingFiles(MemoryFiles):
    """A disk that stops the machine at one of its writes.

    Attributes:
        crash_at: Number of the write, from 1 on; 0: none.
        before: Whether the write is not done any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.crash_at, self.before, self.count = 0, False, 0
        self.crashed = asyncio.Event()

    async def replace(self, path: Path, data: bytes) -> None:
        self.count += 1
        crashes = self.count == self.crash_at
        if not (crashes and self.before):
            await super().replace(path, data)
        if crashes:
            self.crashed.set()
            await asyncio.get_running_loop().create_future()


class PlayedProcess(EtcdProcess):
    """An etcd that needs no program. Its data outlives it."""

    def __init__(self, config: EtcdProcessConfig, world: "StorageWorld") -> None:
        super().__init__(config)
        self._world = world
        self.runs = False
        self.starts, self.refusals = 0, 0
        """How often it was started, and how often it will not go beyond that."""
        self.data: tuple[str, int] | None = None
        """Token of the cluster and number of the member that its directory is of."""

    @property
    def has_data(self) -> bool:
        return self.data is not None

    @property
    def is_started(self) -> bool:
        return self.runs

    async def check(self) -> str:
        return "3.4.23"

    async def start(self, formation: Formation, *, alone: bool = False) -> None:
        self.starts += 1
        assert not self.runs, "started twice"
        if self.data is None and self.refusals:
            self.refusals -= 1
        elif self.data is None:
            self.data = self._world.enter(self.config, formation)
        elif alone:
            self.data = self._world.go_alone(self.data[1], formation)
        self.runs = True

    async def stop(self) -> None:
        self.runs = False

    def archive(self, suffix: str) -> Path | None:
        assert not self.runs
        found, self.data = self.data, None
        return self.config.directory.with_name(f"etcd.{suffix}") if found else None


class Machine:
    """A server: what survives a crash, and its present life."""

    def __init__(self, world: "StorageWorld", number: int, folder: Path) -> None:
        self.world, self.server_id = world, f"id-{number}"
        self._node = f"s{number}"
        self.target = ServerTarget("dc1", self._node, f"10.0.0.{number}", 8300)
        self.files = CrashingFiles()
        self._folder = folder / self.server_id
        self.process = self._process()
        self.keeper: StorageKeeper | None = None
        self.running: asyncio.Task[None] | None = None

    def _process(self) -> PlayedProcess:
        config = EtcdProcessConfig(
            directory=self._folder / "etcd",
            files=MemberFiles(self._folder / "certificates"),
            name=self.server_id,
            peer_host=self.target.host,
        )
        return PlayedProcess(config, self.world)

    def move(self, host: str) -> None:
        """Have another address from the next life on."""
        data = self.process.data
        self.target = ServerTarget("dc1", self._node, host, 8300)
        self.process = self._process()
        self.process.data = data

    async def start(self, expect: int = 3) -> None:
        """Begin a life."""
        member = StorageMember(
            server_id=self.server_id,
            node=self.target.node,
            peer_url=self.process.config.peer_url,
        )
        self.keeper = StorageKeeper(
            StorageKeeperConfig(
                datacenter="dc1",
                member=member,
                peer_host=self.target.host,
                expect=expect,
                directory=self._folder,
            ),
            self.process,
            servers=lambda: self.world.others(self),
            caller=Calls(self),
            files=self.files,
            wall=self.world.wall,
            entropy=self.world.rng.randbytes,
            client=PlayedClient(self),
        )
        await self.keeper.open()
        self.running = asyncio.get_running_loop().create_task(self.keeper.run())

    def empty(self) -> None:
        """Have an operator move the folder away, between two lives."""
        assert self.keeper is None
        self.process.data = None
        self.files.contents.clear()

    async def kill(self) -> None:
        """End it, with nothing more written."""
        keeper, self.keeper = self.keeper, None
        assert self.running is not None
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running
        assert keeper is not None
        await keeper.close()
        self.files.crash_at = 0

    @property
    def number(self) -> int:
        """Of its member; 0 while it has no data."""
        return self.process.data[1] if self.process.data else 0

    @property
    def token(self) -> str:
        """The cluster that its member is in; empty while it is in none."""
        return self.process.data[0] if self.process.data and self.process.runs else ""


class PlayedClient:
    """Calls the played member of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._world = machine, machine.world

    async def close(self) -> None:
        """Nothing to close."""

    async def call(self, method: str, request: Any) -> Any:
        """Answer as etcd would."""
        await asyncio.sleep(0.001)
        data = self._machine.process.data
        if data is None or not self._machine.process.runs:
            raise CallFailed(method, "UNAVAILABLE", "nobody listens", sent=False)
        cluster, own = self._world.clusters[data[0]], data[1]
        works = own in cluster.members and self._world.has_majority(cluster, self._machine)
        if method == "Status":
            answer = MESSAGES["StatusResponse"](leader=1 if works else 0)
            answer.isLearner = own in cluster.members and cluster.members[own].is_learner
            return answer
        if not works:
            raise CallFailed(method, "UNAVAILABLE", "no leader", sent=True)
        return getattr(self, f"_{method}")(cluster, request)

    def _Txn(self, cluster: PlayedCluster, request: Any) -> Any:  # noqa: N802 (etcd's name)
        answer = MESSAGES["TxnResponse"](succeeded=True)
        for operation in request.success:
            if operation.request_put.key:
                cluster.keys.setdefault(operation.request_put.key, operation.request_put.value)
                answer.responses.add()
            else:
                key = operation.request_range.key
                found = answer.responses.add().response_range
                if key in cluster.keys:
                    found.kvs.add(key=key, value=cluster.keys[key])
        return answer

    def _MemberList(self, cluster: PlayedCluster, request: Any) -> Any:  # noqa: N802
        answer = MESSAGES["MemberListResponse"]()
        _add_members(answer, cluster)
        return answer

    def _MemberRemove(self, cluster: PlayedCluster, request: Any) -> Any:  # noqa: N802
        del cluster.members[request.ID]
        return MESSAGES["MemberRemoveResponse"]()

    def _MemberAdd(self, cluster: PlayedCluster, request: Any) -> Any:  # noqa: N802
        (url,) = request.peerURLs
        number = self._world.next_number()
        added = cluster.members[number] = PlayedMember(number, "", url, is_learner=True)
        answer = MESSAGES["MemberAddResponse"]()
        answer.member.ID = added.number
        _add_members(answer, cluster)
        return answer

    def _MemberUpdate(self, cluster: PlayedCluster, request: Any) -> Any:  # noqa: N802
        (cluster.members[request.ID].peer_url,) = request.peerURLs
        return MESSAGES["MemberUpdateResponse"]()


class Calls:
    """A machine's calls to the others; implements `server.forward.RemoteCaller`."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._world = machine, machine.world

    async def call(
        self,
        target: ServerTarget,
        method: str,
        request: Record,
        reply_type: Any,
        *,
        timeout: float,
        repeatable: bool = False,
    ) -> Any:
        """See `RemoteCaller.call`."""
        return await self._world.call(self._machine, target, request, timeout=timeout)


def _add_members(answer: Any, cluster: PlayedCluster) -> None:
    for member in cluster.members.values():
        answer.members.add(
            ID=member.number,
            name=member.name,
            peerURLs=[member.peer_url],
            isLearner=member.is_learner,
        )


class StorageWorld:
    """Machines that reach each other.

    Attributes:
        apart: Machines that are cut off from all others, and reach only each other.

    Args:
        count: How many machines.
        folder: For their certificates.
    """

    def __init__(self, count: int, folder: Path, *, seed: int = 1) -> None:
        self.rng = Random(seed)
        self.clusters: dict[str, PlayedCluster] = {}
        self._number = 0
        self.apart: set[Machine] = set()
        self.machines = [Machine(self, number, folder) for number in range(1, count + 1)]

    def next_number(self) -> int:
        """Number of another member."""
        self._number += 1
        return self._number

    def wall(self) -> datetime:
        """The calendar clock, which goes with the loop's."""
        return _EPOCH + timedelta(seconds=asyncio.get_running_loop().time())

    def reach(self, one: Machine, other: Machine) -> bool:
        """Whether two machines are on the same side of the cut."""
        return (one in self.apart) is (other in self.apart)

    def others(self, own: Machine) -> Mapping[str, ServerTarget]:
        """Living machines within reach, but for one's own."""
        return {
            machine.server_id: machine.target
            for machine in self.machines
            if machine is not own and machine.keeper is not None and self.reach(own, machine)
        }

    def enter(self, config: EtcdProcessConfig, formation: Formation) -> tuple[str, int]:
        """An etcd without data starts: as one of a new cluster, or as a learner that was added."""
        if formation.new:
            cluster = self.clusters.get(formation.token)
            if cluster is None:
                cluster = self.clusters[formation.token] = PlayedCluster(formation.token)
                for name, url in sorted(formation.members.items()):
                    number = self.next_number()
                    cluster.members[number] = PlayedMember(number, name, url)
            listed = {member.name: member.peer_url for member in cluster.members.values()}
            assert listed == formation.members, "two lists of members for one cluster"
            (own,) = [m for m in cluster.members.values() if m.name == config.name]
            return formation.token, own.number
        cluster = self.clusters[formation.token]
        (own,) = [m for m in cluster.members.values() if m.peer_url == config.peer_url]
        own.name = config.name
        own.is_learner = False  # The leader's keeper would promote it.
        return formation.token, own.number

    def go_alone(self, number: int, formation: Formation) -> tuple[str, int]:
        """An etcd goes on with its data and without the others, who know nothing of it."""
        ((name, url),) = formation.members.items()
        cluster = self.clusters[formation.token] = PlayedCluster(formation.token)
        cluster.members[number] = PlayedMember(number, name, url)
        cluster.keys[b"m/storage-ca"] = next(iter(self.clusters.values())).keys[b"m/storage-ca"]
        return formation.token, number

    def has_majority(self, cluster: PlayedCluster, seen_by: Machine | None = None) -> bool:
        """Whether more than half of the voters run, within reach of a machine if one is named."""
        voters = {member.number for member in cluster.members.values() if not member.is_learner}
        up = {
            machine.process.data[1]
            for machine in self.machines
            if machine.process.runs and machine.process.data
            if machine.process.data[0] == cluster.token
            if seen_by is None or self.reach(seen_by, machine)
        }
        return 2 * len(voters & up) > len(voters)

    async def call(
        self, caller: Machine, target: ServerTarget, request: Record, *, timeout: float
    ) -> Any:
        """Carry a step from one machine to another."""
        machine = next(machine for machine in self.machines if machine.target == target)
        await asyncio.sleep(0.001)
        keeper = machine.keeper
        if keeper is None or not self.reach(caller, machine):
            raise DialFailed("refused", dc="dc1", node=target.node, gateway="", step="connect")
        try:
            async with asyncio.timeout(timeout):
                reply = await keeper.answer(request)  # type: ignore[arg-type]
        except TimeoutError:
            raise ConnectionLost("no answer") from None
        except IsthmusError as error:
            raise RemoteError(str(error)) from error
        if machine.keeper is not keeper:
            raise ConnectionLost("it died")
        return reply

    async def until_formed(self, *machines: Machine, timeout: float = 300.0) -> str:
        """Wait until machines are members of one cluster that works; its token."""
        wanted = machines or tuple(self.machines)
        async with asyncio.timeout(timeout):
            for machine in wanted:
                assert machine.running is not None
                await machine.running
        (token,) = {machine.token for machine in wanted}
        assert self.has_majority(self.clusters[token])
        return token

    async def stop(self) -> None:
        """End all lives."""
        for machine in self.machines:
            if machine.keeper is not None:
                await machine.kill()
