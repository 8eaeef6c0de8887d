"""Who is alive, suspect, dead or gone: which claim about a member wins.

Source: SWIM §4.2 (suspicion, incarnation numbers); protocol/gossip.md §4.
"""

import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from isthmus.gossip.awareness import Awareness
from isthmus.gossip.broadcast import BroadcastQueue
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.outputs import (
    Address,
    MemberlistOutput,
    NodeConflict,
    NodeJoined,
    NodeLeft,
    NodeUpdated,
    Warned,
)
from isthmus.gossip.suspicion import Suspicion, SuspicionTimes
from isthmus.wire.memberlist import (
    VSN_SIZE,
    Alive,
    Dead,
    NodeState,
    NodeStatus,
    Suspect,
    encode_message,
)

OUR_VSN: Final = bytes((1, 5, 2, 2, 5, 4))
"""Protocol min, max, current, delegate min, max, current, as Consul 1.9 to 1.10 send them."""
MEMBER_COUNT_MAX: Final = 1 << 16
"""Most members remembered; claims about further ones are ignored."""
INCARNATION_MAX: Final = 2**32 - 1
ADDRESSES_REMEMBERED_MAX: Final = 4096
"""Texts of addresses that are kept: every ping brings its sender's."""

_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"
_SAMPLE_ALL_MAX: Final = 64
_ALIVE: Final = NodeStatus.ALIVE  # Looking a name up in an enumeration takes longer than the rest.
_SUSPECT: Final = NodeStatus.SUSPECT
_DEAD: Final = NodeStatus.DEAD
_LEFT: Final = NodeStatus.LEFT


def normalise_addr(addr: bytes) -> bytes:
    """Bring a v4 address in its 16-byte form to 4 bytes, so that equal addresses compare equal."""
    return addr[12:] if len(addr) == 16 and addr.startswith(_MAPPED_PREFIX) else addr


@lru_cache(maxsize=ADDRESSES_REMEMBERED_MAX)
def addr_text(addr: bytes) -> str:
    """Text of a 4-byte or 16-byte address."""
    return str(ipaddress.ip_address(addr))


def pack_addr(address: str) -> bytes:
    """The 4 or 16 bytes of a textual address.

    Raises:
        ValueError: Not an IP address.
    """
    return normalise_addr(ipaddress.ip_address(address).packed)


class Node(Struct, frozen=True):
    """What we know of one member. Never changed, so that many tables may share one; see `of`.

    Attributes:
        name: Unique in the pool.
        address: Textual IP address and port.
        status: What it is.
        gone: Whether it is dead or left.
        changed_at: When `status` became what it is.
    """

    name: str
    address: Address
    status: NodeStatus
    gone: bool
    changed_at: float
    _record: NodeState

    @classmethod
    def of(cls, record: NodeState, *, changed_at: float, address: Address | None = None) -> "Node":
        """The node that a record describes; `address` spares working it out again."""
        status = record.state
        return cls(
            record.name,
            address or (addr_text(record.addr), record.port),
            status,
            status is _DEAD or status is _LEFT,
            changed_at,
            record,
        )

    def record(self) -> NodeState:
        """This moment's state, as a push/pull has it."""
        return self._record

    def turned(self, status: NodeStatus, *, incarnation: int, now: float) -> "Node":
        """The same member, having become something else."""
        record = replace(self._record, state=status, incarnation=incarnation)
        return Node.of(record, changed_at=now, address=self.address)

    def renewed(self, **changes: Any) -> "Node":
        """The same member in the same status, with other fields of its record."""
        record = replace(self._record, **changes)
        return Node.of(record, changed_at=self.changed_at, address=self.address)

    @property
    def addr(self) -> bytes:
        """Address in 4 or 16 bytes."""
        return self._record.addr

    @property
    def port(self) -> int:
        """Port of its packets and streams."""
        return self._record.port

    @property
    def meta(self) -> bytes:
        """What it tells about itself."""
        return self._record.meta

    @property
    def vsn(self) -> bytes:
        """Protocol versions."""
        return self._record.vsn

    @property
    def incarnation(self) -> int:
        """Its counter, as far as we know."""
        return self._record.incarnation

    @property
    def protocol_max(self) -> int:
        """Newest memberlist protocol it speaks."""
        return self._record.vsn[1]


class MemberTable:
    """All members of the pool, ourselves included.

    Args:
        me: Our own entry; its incarnation is 1 or what we were known by before.
        config: Times.
        check: Says why a claimed member must not be let in, or None.
        rumours: Where news about members go.
        awareness: Our health; having to refute worsens it.
        emit: Receives events.
        rng: Chooses places in the probe ring.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(
        self,
        me: Alive,
        *,
        config: GossipConfig,
        check: Callable[[NodeState], str | None],
        rumours: BroadcastQueue,
        awareness: Awareness,
        emit: Callable[[MemberlistOutput], None],
        rng: Random,
        now: float,
    ) -> None:
        self._config, self._check, self._rumours = config, check, rumours
        self._awareness, self._emit, self._rng = awareness, emit, rng
        self.me = Node.of(_state(me), changed_at=now)
        """Our own entry."""
        self.nodes: dict[str, Node] = {me.node: self.me}
        self.ring: list[str] = [me.node]
        """The members in the order of this round's probes."""
        self.leaving = False
        self._states: tuple[NodeState, ...] | None = None
        self.refutations = 0
        """How often we had to outbid an accusation."""
        self._shared = False
        """Whether other tables look at `nodes`, too: then it is copied before it is changed."""
        self.suspicions: dict[str, Suspicion] = {}
        """Timers of the suspects."""
        self._stall_min = config.probe_interval
        self._announce()

    def __len__(self) -> int:
        return len(self.nodes)

    def receive_alive(self, alive: Alive, *, now: float) -> None:
        """Weigh the claim that a member is alive (protocol/gossip.md §4, rules in order)."""
        mine = alive.node == self.me.name
        if mine and self.leaving:
            return
        claimed = self._admit(alive)
        if claimed is None:
            return
        node = self.nodes.get(alive.node)
        if node is None:
            if len(self.nodes) >= MEMBER_COUNT_MAX:
                return
            node = self._insert(claimed, now=now)
        moved = (node.addr, node.port) != (claimed.addr, claimed.port)
        if moved and not self._may_move(node, now=now):
            self._emit(NodeConflict(known=node.record(), claimed=claimed))
            return
        if mine:
            self._weigh_claim_about_me(claimed)
            return
        if not moved and alive.incarnation <= node.incarnation:
            return
        self._revive(node, claimed, now=now)

    def receive_suspect(self, suspect: Suspect, *, now: float) -> None:
        """Weigh an accusation."""
        node = self.nodes.get(suspect.node)
        if node is None or suspect.incarnation < node.incarnation:
            return
        running = self.suspicions.get(node.name)
        if running is not None:
            if running.confirm(suspect.from_):
                self._spread(suspect)
            return
        if node.status is not _ALIVE:
            return
        if node is self.me:
            self._refute(suspect.incarnation)
            return
        self._spread(suspect)
        self._put(node.turned(_SUSPECT, incarnation=suspect.incarnation, now=now))
        times = SuspicionTimes.of(self._config, member_count=len(self.nodes))
        self.suspicions[node.name] = Suspicion(suspect.from_, times, now=now)

    def receive_dead(self, dead: Dead, *, now: float) -> None:
        """Weigh the claim that a member is dead, or (from itself) that it left."""
        node = self.nodes.get(dead.node)
        if node is None or dead.incarnation < node.incarnation:
            return
        self.suspicions.pop(node.name, None)
        if node.gone:
            return
        if node is self.me and not self.leaving:
            self._refute(dead.incarnation)
            return
        self._spread(dead, token=LEAVE_TOKEN if node is self.me else 0)
        status = _LEFT if dead.from_ == dead.node else _DEAD
        node = node.turned(status, incarnation=dead.incarnation, now=now)
        self._put(node)
        self._emit(NodeLeft(node.record()))

    def receive_state(self, state: NodeState, *, now: float) -> None:
        """Weigh one member of a push/pull; the dead are only suspected, so they can refute."""
        match state.state:
            case NodeStatus.ALIVE:
                self.receive_alive(
                    Alive(
                        incarnation=state.incarnation,
                        node=state.name,
                        addr=state.addr,
                        port=state.port,
                        meta=state.meta,
                        vsn=state.vsn,
                    ),
                    now=now,
                )
            case NodeStatus.LEFT:
                self.receive_dead(
                    Dead(incarnation=state.incarnation, node=state.name, from_=state.name), now=now
                )
            case NodeStatus.DEAD | NodeStatus.SUSPECT:
                self.receive_suspect(
                    Suspect(incarnation=state.incarnation, node=state.name, from_=self.me.name),
                    now=now,
                )

    def update_meta(self, meta: bytes) -> None:
        """Change our own meta, with a new incarnation."""
        self._put(self.me.renewed(meta=meta, incarnation=self.me.incarnation + 1))
        self._announce()
        self._emit(NodeUpdated(self.me.record()))

    def leave(self, *, now: float) -> None:
        """Declare that we leave; from now on claims about us are let stand."""
        self.leaving = True
        self.receive_dead(
            Dead(incarnation=self.me.incarnation, node=self.me.name, from_=self.me.name), now=now
        )

    def announcement(self) -> bytes:
        """The message that we are alive, with our present incarnation."""
        return encode_message(_alive(self.me))

    def next_timer(self) -> float | None:
        """When the next suspect runs out of time."""
        if not self.suspicions:
            return None
        return min([suspicion.deadline for suspicion in self.suspicions.values()])

    def handle_timer(self, *, now: float) -> None:
        """Declare dead the suspects that did not refute in time."""
        if not self.suspicions:
            return
        if now - min([timer.deadline for timer in self.suspicions.values()]) > self._stall_min:
            # We stood still: what the suspects answered waits for us behind this timer.
            for timer in self.suspicions.values():
                timer.renew(now=now)
        overdue = [name for name, timer in self.suspicions.items() if timer.deadline <= now]
        for name in overdue:
            node = self.nodes[name]
            dead = Dead(incarnation=node.incarnation, node=name, from_=self.me.name)
            self.receive_dead(dead, now=now)

    def reset_ring(self, *, now: float) -> None:
        """Begin a new probe round: forget who is long gone, shuffle the others."""
        horizon = now - self._config.gossip_to_the_dead_time
        for node in [node for node in self.nodes.values() if node.gone]:
            if node.changed_at < horizon and node is not self.me:
                self._own()
                del self.nodes[node.name]
        self.ring = list(self.nodes)
        self._rng.shuffle(self.ring)

    def random_nodes(self, count: int, accept: Callable[[Node], bool]) -> list[Node]:
        """Up to `count` distinct members, not ourselves, that `accept` takes.

        In a large pool a few random draws do; they may find fewer than there are.
        """
        if len(self.ring) <= _SAMPLE_ALL_MAX:
            nodes = [self.nodes[name] for name in self.ring]
            eligible = [node for node in nodes if node is not self.me and accept(node)]
            return self._rng.sample(eligible, k=min(count, len(eligible)))
        chosen: list[Node] = []
        for _ in range(_SAMPLE_ALL_MAX * count):
            node = self.nodes[self.ring[int(self._rng.random() * len(self.ring))]]
            if node is not self.me and node not in chosen and accept(node):
                chosen.append(node)
                if len(chosen) == count:
                    break
        return chosen

    def states(self) -> tuple[NodeState, ...]:
        """Everything we know, as a push/pull has it; the same object until something changes."""
        if self._states is None:
            self._states = tuple([node.record() for node in self.nodes.values()])
        return self._states

    def news(self, states: Sequence[NodeState]) -> list[NodeState]:
        """Those of `states` that may tell us anything.

        What we know exactly like this tells nothing, except for a suspect: there we are told of one
        more who suspects it.
        """
        if states is self._states and not self.suspicions:
            return []
        nodes = self.nodes
        return [
            state
            for state in states
            if (node := nodes.get(state.name)) is None
            or (node._record is not state and node._record != state)
            or state.state is _SUSPECT
        ]

    def copy_from(self, other: "MemberTable") -> None:
        """Know what the table of another member knows, us included; for a pool that starts warm."""
        self.nodes, self._shared, other._shared = other.nodes, True, True
        self.me = self.nodes[self.me.name]
        self._states = other.states()
        self.ring = list(self.nodes)
        self._rng.shuffle(self.ring)

    def _admit(self, alive: Alive) -> NodeState | None:
        """Check a claim's form and ask the pool's rules; None: it must be ignored."""
        vsn, addr = alive.vsn, normalise_addr(alive.addr)
        problem: str | None
        if len(vsn) != VSN_SIZE:
            problem = "Vsn is not present"
        elif len(addr) not in {4, 16}:
            problem = f"IP byte length is invalid: {len(addr)} bytes is not either 4 or 16"
        elif not 0 < vsn[0] <= vsn[1]:
            return None
        else:
            claimed = NodeState(
                name=alive.node,
                addr=addr,
                port=alive.port or self.me.port,
                meta=alive.meta,
                incarnation=alive.incarnation,
                state=NodeStatus.ALIVE,
                vsn=vsn,
            )
            problem = self._check(claimed)
            if problem is None:
                return claimed
        self._emit(Warned(f"ignoring alive message for '{alive.node}': {problem}"))
        return None

    def _insert(self, claimed: NodeState, *, now: float) -> Node:
        blank = NodeState(
            name=claimed.name,
            addr=claimed.addr,
            port=claimed.port,
            state=_DEAD,
            vsn=bytes(VSN_SIZE),
        )
        node = Node.of(blank, changed_at=now)
        self._put(node)
        self.ring.append(node.name)
        place = self._rng.randrange(len(self.ring))
        self.ring[place], self.ring[-1] = self.ring[-1], self.ring[place]
        return node

    def _may_move(self, node: Node, *, now: float) -> bool:
        """Whether the name may be taken over by another address."""
        reclaim = self._config.dead_node_reclaim_time
        return node.status is _LEFT or (
            node.status is _DEAD and reclaim > 0 and now - node.changed_at > reclaim
        )

    def _weigh_claim_about_me(self, claimed: NodeState) -> None:
        me = self.me
        same = (claimed.meta, claimed.vsn) == (me.meta, me.vsn)
        if claimed.incarnation < me.incarnation or (claimed.incarnation == me.incarnation and same):
            return
        self._refute(claimed.incarnation)

    def _revive(self, node: Node, claimed: NodeState, *, now: float) -> None:
        self.suspicions.pop(node.name, None)
        changed_at = node.changed_at if node.status is _ALIVE else now
        moved = (node.addr, node.port) != (claimed.addr, claimed.port)
        known = Node.of(claimed, changed_at=changed_at, address=None if moved else node.address)
        self._put(known)
        self._rumours.queue(encode_message(_alive(known)), name=known.name)
        if node.gone:
            self._emit(NodeJoined(claimed))
        elif node.meta != claimed.meta:
            self._emit(NodeUpdated(claimed))

    def _refute(self, incarnation: int) -> None:
        """Outbid an accusation; having to do so is a sign that we are slow."""
        bid = max(self.me.incarnation, incarnation) + 1
        if bid > INCARNATION_MAX:
            return  # Nobody can outbid that; a restart under another name can.
        self.refutations += 1
        self._put(self.me.renewed(incarnation=bid))
        self._awareness.apply(1)
        self._announce()

    def _own(self) -> None:
        """Be about to change `nodes`."""
        self._states = None
        if self._shared:
            self.nodes, self._shared = self.nodes.copy(), False

    def _put(self, node: Node) -> None:
        self._own()
        self.nodes[node.name] = node
        if node.name == self.me.name:
            self.me = node

    def _announce(self) -> None:
        self._rumours.queue(self.announcement(), name=self.me.name)

    def _spread(self, claim: Suspect | Dead, *, token: int = 0) -> None:
        self._rumours.queue(encode_message(claim), name=claim.node, token=token)


LEAVE_TOKEN: Final = 1
"""Token of the rumour that we leave."""


def _alive(node: Node) -> Alive:
    return Alive(
        incarnation=node.incarnation,
        node=node.name,
        addr=node.addr,
        port=node.port,
        meta=node.meta,
        vsn=node.vsn,
    )


def _state(alive: Alive) -> NodeState:
    return NodeState(
        name=alive.node,
        addr=alive.addr,
        port=alive.port,
        meta=alive.meta,
        incarnation=alive.incarnation,
        state=_ALIVE,
        vsn=alive.vsn,
    )
