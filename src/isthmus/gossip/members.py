"""Who is alive, suspect, dead or gone: which claim about a member wins.

Source: SWIM §4.2 (suspicion, incarnation numbers); protocol/gossip.md §4.
"""

import ipaddress
from collections.abc import Callable
from random import Random
from typing import Final

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

_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"
_SAMPLE_ALL_MAX: Final = 64


def normalise_addr(addr: bytes) -> bytes:
    """Bring a v4 address in its 16-byte form to 4 bytes, so that equal addresses compare equal."""
    return addr[12:] if len(addr) == 16 and addr.startswith(_MAPPED_PREFIX) else addr


def addr_text(addr: bytes) -> str:
    """Text of a 4-byte or 16-byte address."""
    return str(ipaddress.ip_address(addr))


def pack_addr(address: str) -> bytes:
    """The 4 or 16 bytes of a textual address.

    Raises:
        ValueError: Not an IP address.
    """
    return normalise_addr(ipaddress.ip_address(address).packed)


class Node:
    """What we know of one member. Changed by `MemberTable` only."""

    __slots__ = (
        "addr",
        "address",
        "changed_at",
        "incarnation",
        "meta",
        "name",
        "port",
        "status",
        "vsn",
    )

    def __init__(self, name: str, *, status: NodeStatus, now: float) -> None:
        self.name = name
        self.addr, self.port = b"", 0
        self.address: Address = ("", 0)
        self.meta, self.vsn = b"", bytes(VSN_SIZE)
        self.incarnation = 0
        self.status = status
        self.changed_at = now

    @property
    def protocol_max(self) -> int:
        """Newest memberlist protocol it speaks."""
        return self.vsn[1]

    @property
    def gone(self) -> bool:
        """Whether it is dead or left."""
        return self.status in {NodeStatus.DEAD, NodeStatus.LEFT}

    def move(self, addr: bytes, port: int) -> None:
        """Take over an address."""
        self.addr, self.port = addr, port
        self.address = (addr_text(addr), port)

    def record(self) -> NodeState:
        """This moment's state, as a push/pull has it."""
        return NodeState(
            name=self.name,
            addr=self.addr,
            port=self.port,
            meta=self.meta,
            incarnation=self.incarnation,
            state=self.status,
            vsn=self.vsn,
        )


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
        self.me = Node(me.node, status=NodeStatus.ALIVE, now=now)
        self.me.move(me.addr, me.port)
        self.me.meta, self.me.vsn, self.me.incarnation = me.meta, me.vsn, me.incarnation
        self.nodes: dict[str, Node] = {me.node: self.me}
        self.ring: list[Node] = [self.me]
        self.leaving = False
        self._suspicions: dict[str, Suspicion] = {}
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
        running = self._suspicions.get(node.name)
        if running is not None:
            if running.confirm(suspect.from_):
                self._spread(suspect)
            return
        if node.status is not NodeStatus.ALIVE:
            return
        if node is self.me:
            self._refute(suspect.incarnation)
            return
        self._spread(suspect)
        node.incarnation = suspect.incarnation
        node.status, node.changed_at = NodeStatus.SUSPECT, now
        times = SuspicionTimes.of(self._config, member_count=len(self.nodes))
        self._suspicions[node.name] = Suspicion(suspect.from_, times, now=now)

    def receive_dead(self, dead: Dead, *, now: float) -> None:
        """Weigh the claim that a member is dead, or (from itself) that it left."""
        node = self.nodes.get(dead.node)
        if node is None or dead.incarnation < node.incarnation:
            return
        self._suspicions.pop(node.name, None)
        if node.gone:
            return
        if node is self.me and not self.leaving:
            self._refute(dead.incarnation)
            return
        self._spread(dead, token=LEAVE_TOKEN if node is self.me else 0)
        node.incarnation = dead.incarnation
        node.status = NodeStatus.LEFT if dead.from_ == dead.node else NodeStatus.DEAD
        node.changed_at = now
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
        self.me.meta = meta
        self.me.incarnation += 1
        self._announce()
        self._emit(NodeUpdated(self.me.record()))

    def leave(self, *, now: float) -> None:
        """Declare that we leave; from now on claims about us are let stand."""
        self.leaving = True
        self.receive_dead(
            Dead(incarnation=self.me.incarnation, node=self.me.name, from_=self.me.name), now=now
        )

    def next_timer(self) -> float | None:
        """When the next suspect runs out of time."""
        deadlines = [suspicion.deadline for suspicion in self._suspicions.values()]
        return min(deadlines, default=None)

    def handle_timer(self, *, now: float) -> None:
        """Declare dead the suspects that did not refute in time."""
        overdue = [name for name, timer in self._suspicions.items() if timer.deadline <= now]
        for name in overdue:
            node = self.nodes[name]
            dead = Dead(incarnation=node.incarnation, node=name, from_=self.me.name)
            self.receive_dead(dead, now=now)

    def reset_ring(self, *, now: float) -> None:
        """Begin a new probe round: forget who is long gone, shuffle the others."""
        horizon = now - self._config.gossip_to_the_dead_time
        for node in [node for node in self.ring if node.gone and node.changed_at < horizon]:
            if node is not self.me:
                del self.nodes[node.name]
        self.ring = list(self.nodes.values())
        self._rng.shuffle(self.ring)

    def random_nodes(self, count: int, accept: Callable[[Node], bool]) -> list[Node]:
        """Up to `count` distinct members, not ourselves, that `accept` takes.

        In a large pool a few random draws do; they may find fewer than there are.
        """
        if len(self.ring) <= _SAMPLE_ALL_MAX:
            eligible = [node for node in self.ring if node is not self.me and accept(node)]
            return self._rng.sample(eligible, k=min(count, len(eligible)))
        chosen: list[Node] = []
        for _ in range(_SAMPLE_ALL_MAX * count):
            node = self.ring[int(self._rng.random() * len(self.ring))]
            if node is not self.me and node not in chosen and accept(node):
                chosen.append(node)
                if len(chosen) == count:
                    break
        return chosen

    def states(self) -> tuple[NodeState, ...]:
        """Everything we know, as a push/pull has it."""
        return tuple([node.record() for node in self.nodes.values()])

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
        node = Node(claimed.name, status=NodeStatus.DEAD, now=now)
        node.move(claimed.addr, claimed.port)
        self.nodes[node.name] = node
        self.ring.append(node)
        place = self._rng.randrange(len(self.ring))
        self.ring[place], self.ring[-1] = self.ring[-1], self.ring[place]
        return node

    def _may_move(self, node: Node, *, now: float) -> bool:
        """Whether the name may be taken over by another address."""
        reclaim = self._config.dead_node_reclaim_time
        return node.status is NodeStatus.LEFT or (
            node.status is NodeStatus.DEAD and reclaim > 0 and now - node.changed_at > reclaim
        )

    def _weigh_claim_about_me(self, claimed: NodeState) -> None:
        me = self.me
        same = (claimed.meta, claimed.vsn) == (me.meta, me.vsn)
        if claimed.incarnation < me.incarnation or (claimed.incarnation == me.incarnation and same):
            return
        self._refute(claimed.incarnation)

    def _revive(self, node: Node, claimed: NodeState, *, now: float) -> None:
        was_gone, old_meta = node.gone, node.meta
        self._suspicions.pop(node.name, None)
        node.incarnation = claimed.incarnation
        node.meta, node.vsn = claimed.meta, claimed.vsn
        node.move(claimed.addr, claimed.port)
        if node.status is not NodeStatus.ALIVE:
            node.status, node.changed_at = NodeStatus.ALIVE, now
        self._rumours.queue(encode_message(_alive(node)), name=node.name)
        if was_gone:
            self._emit(NodeJoined(node.record()))
        elif old_meta != node.meta:
            self._emit(NodeUpdated(node.record()))

    def _refute(self, incarnation: int) -> None:
        """Outbid an accusation; having to do so is a sign that we are slow."""
        bid = max(self.me.incarnation, incarnation) + 1
        if bid > INCARNATION_MAX:
            return  # Nobody can outbid that; a restart under another name can.
        self.me.incarnation = bid
        self._awareness.apply(1)
        self._announce()

    def _announce(self) -> None:
        self._rumours.queue(encode_message(_alive(self.me)), name=self.me.name)

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
