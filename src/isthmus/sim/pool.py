"""A gossip pool of a simulation: its members, its rules, and the ways between them."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.outputs import Address, JoinFinished
from isthmus.gossip.serf import MergeCheck, SerfEvent
from isthmus.gossip.snapshot import Snapshot
from isthmus.sim.member import Member
from isthmus.sim.network import Link
from isthmus.sim.parcel import ParcelCodec
from isthmus.sim.traffic import Path
from isthmus.sim.world import Process, World
from isthmus.wire import memberlist as wire

__all__ = ["Member", "Pool", "Route"]

Route: TypeAlias = Callable[[Member, Member], Path | None]
"""The machines from one member to another, both ends included; None: there is no way now."""


class Pool:
    """A gossip pool.

    Args:
        world: Where it lives.
        config: Times and limits of every member.
        route: How its members reach each other by their names (a WAN pool); None: everyone reaches
            everyone directly, by address (a LAN pool).
        port: Of every member.
        keys: Encryption keys; their cost in bytes counts, nothing is encrypted.
        merge_check: The pool's rule about who may be in it.
        on_event: Called with a member and what its core tells the layer above.
        on_join: Called with a member and how a join of its ended.
        idle_probes: Whether idle probes are spared the heap; see `sim.member`. Not with network
            coordinates, which every ack carries.
        ack_payload: What every ack carries where `config` has no network coordinates: bytes that
            are counted, and that nobody looks at.
    """

    def __init__(
        self,
        world: World,
        *,
        config: GossipConfig,
        route: Route | None = None,
        port: int = 8301,
        keys: tuple[bytes, ...] = (),
        merge_check: MergeCheck | None = None,
        on_event: Callable[[Member, SerfEvent], None] | None = None,
        on_join: Callable[[Member, JoinFinished], None] | None = None,
        idle_probes: bool = True,
        ack_payload: bytes = b"",
    ) -> None:
        self.world, self.config, self.route, self.port = world, config, route, port
        self.keys, self.merge_check, self.on_event = keys, merge_check, on_event
        self.on_join = on_join
        self.idle_probes = idle_probes
        self.codec = ParcelCodec(config, encrypted=bool(keys))
        self.ack_payload = ack_payload
        ack = wire.encode_message(wire.Ack(payload=ack_payload))
        self.ack_size = len(ack) - 1 + self.codec.overhead
        """Bytes of a plain ack without its number."""
        self.members: dict[str, Member] = {}
        """By name: the one that runs, or ran last."""
        self.by_address: dict[Address, Member] = {}
        self.direct: Link | None = None
        """The link between any two members, if it is the same for all and has no memory."""
        self.direct_rules = -1
        """State of the network's rules for which that holds."""

    def add(
        self,
        name: str,
        process: Process,
        *,
        tags: Mapping[str, str] | None = None,
        snapshot: Snapshot | None = None,
    ) -> Member:
        """Start a member that knows nobody; of a known name: anew, in its place.

        Args:
            name: In the pool.
            process: Where it runs; several pools may have a member in one process.
            tags: What it tells about itself.
            snapshot: What an earlier process left on the disk: it finds back by itself.
        """
        member = Member(self, process, name, len(self.members), tags or {})
        self.members[name] = self.by_address[member.address] = member
        self.direct_rules = -1
        if snapshot is not None:
            member.resume(snapshot)
        member.touched()
        return member

    def converge(self) -> None:
        """Let all members know each other, as if they had been together for long."""
        members = list(self.members.values())
        first = members[0]
        now = first.clock()
        for member in members[1:]:
            me = member.serf.memberlist.table.me
            alive = wire.Alive(
                incarnation=me.incarnation,
                node=me.name,
                addr=me.addr,
                port=me.port,
                meta=me.meta,
                vsn=me.vsn,
            )
            parcel = self.codec.packet([wire.encode_message(alive)], checksum=False)
            first.serf.receive_packet(parcel, source=None, now=now)
        for member in members:
            member.serf.copy_from(first.serf, now=member.clock())
            member.touched()

    def find(self, name: str, address: Address) -> Member | None:
        """Whom a packet or stream for `name` at `address` reaches."""
        return self.by_address.get(address) if self.route is None else self.members.get(name)

    def find_direct(self) -> None:
        """Find `direct` anew."""
        network = self.world.network
        self.direct_rules, self.direct = network.rules, None
        groups = {member.machine.group for member in self.members.values()}
        if self.route is None and len(groups) == 1:
            self.direct = network.uniform(groups.pop())

    def path(self, source: Member, target: Member) -> Path | None:
        """The machines from one member to another; None: there is no way now."""
        if self.route is None:
            return source.machine, target.machine
        return self.route(source, target)

    def is_remote(self, group: str, name: str) -> bool:
        """Whether a member of that name is in another group than `group`."""
        known = self.members.get(name)
        return self.route is not None and known is not None and known.machine.group != group

    def tell(self, member: Member, event: SerfEvent) -> None:
        """Pass on what a core tells the layer above."""
        if self.on_event is not None:
            self.on_event(member, event)
