"""Many gossip cores in virtual time: the next packet, stream or timer is popped off a heap.

The network between them can lose, delay and cut; members can crash, pause and come back.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from random import Random

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.conflict import ConflictLost
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.keys import StoreKeyring
from isthmus.gossip.outputs import (
    CloseStream,
    JoinFinished,
    OpenStream,
    SendPacket,
    SendStream,
    Warned,
)
from isthmus.gossip.roster import MemberStatus
from isthmus.gossip.serf import LeaveFinished, MergeCheck, Serf, SerfEvent, SerfOutput
from isthmus.gossip.streams import JoinTarget

PORT = 7946


@dataclass
class Site:
    """One member's place in the world."""

    serf: Serf
    events: list[tuple[float, SerfEvent]] = field(default_factory=list)
    warnings: list[tuple[float, str]] = field(default_factory=list)
    joins: dict[int, JoinFinished] = field(default_factory=dict)
    packets_sent: int = 0
    armed: float | None = None
    running: bool = True
    paused: list[Callable[[], None]] | None = None


class World:
    """Sites and the network between them.

    Args:
        seed: Decides every chance.
        config: For all members.
        loss: Share of packets that get lost.
        latency: Shortest and longest time of a packet, in seconds.
        keys: Encryption keys of all members.
        by_name: Route by node name, as gateway federation does.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        config: GossipConfig | None = None,
        loss: float = 0.0,
        latency: tuple[float, float] = (0.0005, 0.002),
        keys: tuple[bytes, ...] = (),
        by_name: bool = False,
        merge_check: MergeCheck | None = None,
    ) -> None:
        self.rng = Random(seed)
        self.config = config or GossipConfig.lan()
        self.loss, self.latency, self.keys, self.by_name = loss, latency, keys, by_name
        self.merge_check = merge_check
        self.now = 0.0
        self.sites: dict[str, Site] = {}
        self.cut: Callable[[str, str], bool] = lambda source, target: False
        """Whether nothing gets from one member to another."""
        self.refuse: Callable[[str, str], bool] = lambda source, target: False
        """Whether a send fails at once, as through a gateway that is not there."""
        self.hosts_refuse = False
        """Whether the hosts of crashed members run on and say that nobody listens there."""
        self.packets: list[tuple[float, str, str, bytes]] = []
        self.record_packets = False
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()
        self._by_address: dict[tuple[str, int], str] = {}
        self._streams: dict[tuple[str, int], tuple[str, int]] = {}

    # --- Members --------------------------------------------------------------------------------

    def add(self, name: str, *, tags: Mapping[str, str] | None = None) -> Serf:
        """Start a member; of a known name: a fresh process at the old address."""
        known = self.sites.get(name)
        number = list(self.sites).index(name) if known else len(self.sites)
        address = (f"10.0.{number // 250}.{number % 250 + 1}", PORT)
        serf = Serf(
            name=name,
            address=address,
            tags=tags or {},
            config=self.config,
            keyring=Keyring(self.keys),
            merge_check=self.merge_check,
            rng=Random(self.rng.getrandbits(64)),
            entropy=self.rng.randbytes,
            now=self.now,
            route_by_name=self.by_name,
            is_remote=lambda other: other.split(".")[-1] != name.split(".")[-1],
        )
        self.sites[name] = Site(serf)
        self._by_address[address] = name
        self.flush(name)
        return serf

    def add_pool(self, size: int) -> list[str]:
        """Start so many members, joined through the first, and let them settle."""
        names = [f"n{number}" for number in range(size)]
        for name in names:
            self.add(name)
        for name in names[1:]:
            self.join(name, names[0])
        self.run(until=self.now + 5)
        return names

    def join(self, name: str, through: str) -> int:
        """One member joins through another."""
        address = self.sites[through].serf.memberlist.table.me.address
        target = JoinTarget(through if self.by_name else "", address)
        number = self.sites[name].serf.join([target], ignore_old=True, now=self.now)
        self.flush(name)
        return number

    def leave(self, name: str) -> None:
        """A member begins to leave; it is stopped once it is done."""
        self.sites[name].serf.leave(now=self.now)
        self.flush(name)

    def crash(self, name: str) -> None:
        """A member is gone without a word."""
        self.sites[name].running = False

    def pause(self, name: str, *, until: float) -> None:
        """A member stands still; what reaches it waits for it."""
        site = self.sites[name]
        site.paused = []
        self.at(until, lambda: self._resume(site))

    def _resume(self, site: Site) -> None:
        waiting, site.paused = site.paused or [], None
        for action in waiting:
            action()

    def status(self, observer: str, name: str) -> MemberStatus:
        """What one member thinks of another; NONE when it does not know it."""
        for member in self.sites[observer].serf.members():
            if member.name == name:
                return member.status
        return MemberStatus.NONE

    def statuses(self, name: str) -> set[MemberStatus]:
        """What all others that run think of a member."""
        return {
            self.status(other, name)
            for other, site in self.sites.items()
            if other != name and site.running
        }

    def events(self, name: str, kind: type) -> list[tuple[float, str]]:
        """Moments and members of a kind of event at one member."""
        return [
            (moment, event.member.name)  # type: ignore[union-attr]
            for moment, event in self.sites[name].events
            if isinstance(event, kind)
        ]

    # --- Time and network -----------------------------------------------------------------------

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Let something happen at a moment."""
        heapq.heappush(self._heap, (max(moment, self.now), next(self._count), action))

    def run(self, *, until: float) -> None:
        """Let time pass."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = until

    def flush(self, name: str) -> None:
        """Carry out what a member wants, and set its alarm."""
        site = self.sites[name]
        for output in site.serf.take_outputs():
            self._carry_out(name, site, output)
        due = site.serf.next_timer()
        if site.armed != due:
            site.armed = due
            self.at(due, lambda: self._alarm(name, site, due))

    def _alarm(self, name: str, site: Site, due: float) -> None:
        if site.armed == due:
            site.armed = None
            self._on(name, site, lambda: site.serf.handle_timer(now=self.now))

    def _on(self, name: str, site: Site, action: Callable[[], None]) -> None:
        """Do something at a member, if it runs; later, if it stands still."""
        if not site.running or self.sites[name] is not site:
            return
        if site.paused is not None:
            site.paused.append(lambda: self._on(name, site, action))
            return
        action()
        self.flush(name)

    def _carry_out(self, name: str, site: Site, output: SerfOutput) -> None:
        match output:
            case SendPacket():
                self._send(name, site, output)
            case OpenStream():
                self._open(name, site, output)
            case SendStream(number, data):
                peer = self._streams.get((name, number))
                if peer is not None:
                    self._deliver_stream(name, *peer, data)
            case CloseStream(number):
                peer = self._streams.pop((name, number), None)
                if peer is not None:
                    other, their_number = peer
                    self._schedule(
                        name,
                        other,
                        lambda s: s.receive_stream_eof(their_number, now=self.now),
                        in_order=True,
                    )
            case JoinFinished():
                site.joins[output.id] = output
            case Warned(text):
                site.warnings.append((self.now, text))
            case StoreKeyring(number):
                self.at(
                    self.now,
                    lambda: self._on(
                        name, site, lambda: site.serf.keyring_stored(number, now=self.now)
                    ),
                )
            case _:
                site.events.append((self.now, output))
                if isinstance(output, (LeaveFinished, ConflictLost)):
                    site.running = False

    def _send(self, name: str, site: Site, packet: SendPacket) -> None:
        site.packets_sent += 1
        target = packet.node if self.by_name else self._by_address.get(packet.address)
        if self.record_packets:
            self.packets.append((self.now, name, target or "", packet.data))
        if target is None or target not in self.sites or self.refuse(name, target):
            site.serf.packet_failed(packet.id, now=self.now)
            for output in site.serf.take_outputs():
                self._carry_out(name, site, output)
            return
        if self.rng.random() < self.loss:
            return
        if self.hosts_refuse and not self.sites[target].running and not self.cut(name, target):
            address = packet.address
            self.at(
                self.now + 2 * self.latency[1],
                lambda: self._on(
                    name, site, lambda: site.serf.receive_refusal(address, now=self.now)
                ),
            )
            return
        source = None if self.by_name else site.serf.memberlist.table.me.address
        self._schedule(
            name,
            target,
            lambda serf: serf.receive_packet(packet.data, source=source, now=self.now),
        )

    def _schedule(
        self,
        source: str,
        target: str,
        action: Callable[[Serf], None],
        *,
        in_order: bool = False,
    ) -> None:
        if self.cut(source, target):
            return
        site = self.sites[target]
        self.at(
            self.now + (self.latency[1] if in_order else self.rng.uniform(*self.latency)),
            lambda: self._on(target, site, lambda: action(site.serf)),
        )

    def _open(self, name: str, site: Site, request: OpenStream) -> None:
        target = request.node if self.by_name else self._by_address.get(request.address)
        number = request.id
        reachable = target in self.sites and self.sites[target].running
        if target is None or not reachable or self.refuse(name, target):
            self.at(
                self.now + self.latency[1],
                lambda: self._on(
                    name,
                    site,
                    lambda: site.serf.stream_failed(
                        number, "connection refused", refused=self.hosts_refuse, now=self.now
                    ),
                ),
            )
            return
        peer = self.sites[target]
        if self.cut(name, target):
            return

        def arrive() -> None:
            accepted = peer.serf.accept_stream(peer=("10.9.9.9", 1), now=self.now)
            if accepted is None:
                return
            self._streams[name, number] = (target, accepted)
            self._streams[target, accepted] = (name, number)
            site.serf.stream_opened(number, now=self.now)
            peer.serf.receive_stream_data(accepted, request.data, now=self.now)

        self.at(self.now + self.latency[1], lambda: self._on(target, peer, arrive))

    def _deliver_stream(self, source: str, target: str, number: int, data: bytes) -> None:
        self._schedule(
            source,
            target,
            lambda serf: serf.receive_stream_data(number, data, now=self.now),
            in_order=True,
        )
