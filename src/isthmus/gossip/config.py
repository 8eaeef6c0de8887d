"""Timing and limits of one gossip pool, with Consul's presets.

Source: protocol/gossip.md §12.
"""

from dataclasses import dataclass, replace
from typing import Final

HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """All that a pool may tune. Times in seconds, sizes in bytes.

    Attributes:
        probe_interval: Between two probes; also the deadline of one while we feel healthy.
        probe_timeout: A direct ping may take this long before helpers are asked.
        indirect_checks: Helpers asked at once.
        suspicion_mult: Stretches the suspicion timers, and how many must confirm (minus two).
        suspicion_max_timeout_mult: Longest suspicion timer in units of the shortest.
        gossip_interval: Between two rounds of gossip.
        gossip_nodes: Members told in one round.
        gossip_to_the_dead_time: The dead are still told for so long, and remembered by memberlist.
        retransmit_mult: A rumour is sent this often times the logarithm of the pool's size.
        push_pull_interval: Between two exchanges of full state.
        stream_timeout: For a whole stream exchange (memberlist's TCPTimeout).
        awareness_max: Health score stays below this.
        dead_node_reclaim_time: A dead member's name may come back at another address after this
            time; 0: never.
        packet_size: Budget of one packet before compression and checksum.
        compress: Whether to compress what gets shorter by it.
        stream_pings: Whether a silent member is also tried over a stream.
        coordinates: Whether acks carry network coordinates.
        label: Only packets and streams with this label belong to the pool.
        verify_incoming: With keys, refuse what is not encrypted.
        verify_outgoing: With keys, encrypt what we send.
        broadcast_timeout: Longest wait for a leave message to be sent out.
        leave_propagate_delay: A leaving member still answers probes for so long.
        reap_interval: Between two rounds of forgetting members.
        reconnect_interval: Between two attempts to reach a failed member.
        reconnect_timeout: A failed member is forgotten after this.
        tombstone_timeout: A member that left is forgotten after this.
        recent_intent_timeout: An intent about an unknown member is remembered for so long.
        event_buffer: Lamport times whose user events are remembered.
        query_buffer: Lamport times whose queries are remembered.
        query_timeout_mult: Default time-out of a query in gossip intervals times log10 of size.
        queue_depth_min: Serf's queues are never pruned below this.
        user_event_size_max: Name and payload of a user event, and its encoded form.
        query_size_max: Encoded query.
        query_response_size_max: Encoded response.
    """

    probe_interval: float = 1.0
    probe_timeout: float = 0.5
    indirect_checks: int = 3
    suspicion_mult: int = 4
    suspicion_max_timeout_mult: int = 6
    gossip_interval: float = 0.2
    gossip_nodes: int = 3
    gossip_to_the_dead_time: float = 30.0
    retransmit_mult: int = 4
    push_pull_interval: float = 30.0
    stream_timeout: float = 10.0
    awareness_max: int = 8
    dead_node_reclaim_time: float = 30.0  # Consul's; serf's is 0.
    packet_size: int = 1400
    compress: bool = True
    stream_pings: bool = True
    coordinates: bool = True
    label: bytes = b""
    verify_incoming: bool = True
    verify_outgoing: bool = True
    broadcast_timeout: float = 5.0
    leave_propagate_delay: float = 3.0  # Consul's; serf's is 1.
    reap_interval: float = 15.0
    reconnect_interval: float = 30.0
    reconnect_timeout: float = 72 * HOUR  # Consul's; serf's is 24 h.
    tombstone_timeout: float = 24 * HOUR
    recent_intent_timeout: float = 300.0
    event_buffer: int = 512
    query_buffer: int = 512
    query_timeout_mult: int = 16
    queue_depth_min: int = 4096
    user_event_size_max: int = 512
    query_size_max: int = 1024
    query_response_size_max: int = 1024

    def __post_init__(self) -> None:
        assert 0 < self.probe_timeout <= self.probe_interval
        assert self.gossip_interval > 0
        assert self.push_pull_interval > 0
        assert self.suspicion_mult >= 1
        assert self.awareness_max >= 1
        assert 512 <= self.packet_size <= 65000
        assert len(self.label) <= 255

    @classmethod
    def lan(cls) -> "GossipConfig":
        """Members of one datacenter."""
        return cls()

    @classmethod
    def wan(cls) -> "GossipConfig":
        """Servers of all datacenters. Consul leaves `gossip_nodes` at the LAN's value."""
        return cls(
            probe_interval=5.0,
            probe_timeout=3.0,
            suspicion_mult=6,
            gossip_interval=0.5,
            gossip_to_the_dead_time=60.0,
            push_pull_interval=60.0,
            stream_timeout=30.0,
        )

    @classmethod
    def local(cls) -> "GossipConfig":
        """Everything on one machine, as in tests."""
        return cls(
            probe_timeout=0.2,
            indirect_checks=1,
            suspicion_mult=3,
            gossip_interval=0.1,
            gossip_to_the_dead_time=15.0,
            retransmit_mult=2,
            push_pull_interval=15.0,
            stream_timeout=1.0,
        )

    def dev(self) -> "GossipConfig":
        """This configuration with the overrides of Consul's development mode."""
        return replace(
            self, probe_interval=0.1, probe_timeout=0.1, gossip_interval=0.1, suspicion_mult=3
        )
