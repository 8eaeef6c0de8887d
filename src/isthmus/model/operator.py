"""The servers of a datacenter as an operator sees them.

The names are Consul's: its servers store data in Raft by themselves, ours in etcd, which is Raft
too. Source: protocol/rpc.md §6 "Operator", protocol/http-api.md §6.8.
"""

from typing import Final

import msgspec

from isthmus.model.query import WriteRequest
from isthmus.model.record import Record, Uint
from isthmus.model.timestamp import Timestamp
from isthmus.units import MILLISECOND, SECOND, Duration

LEADER: Final = "leader"
VOTER: Final = "voter"
NON_VOTER: Final = "non-voter"


class RaftServer(Record, frozen=True, kw_only=True):
    """A server that the storage has as a member.

    Attributes:
        address: ``host:port`` of its RPC port.
        voter: Whether it counts for the majority.
    """

    id: str = ""
    node: str = ""
    address: str = ""
    leader: bool = False
    protocol_version: str = "3"
    voter: bool = False


class RaftConfigurationResponse(Record, frozen=True, kw_only=True):
    """Reply of ``Operator.RaftGetConfiguration``."""

    servers: tuple[RaftServer, ...] | None = None
    index: Uint = 0


class RaftRemovePeerRequest(WriteRequest, frozen=True, kw_only=True):
    """Remove a server from the storage, named by one of both."""

    datacenter: str = ""
    id: str = ""
    address: str = ""


class TransferLeaderRequest(WriteRequest, frozen=True, kw_only=True):
    """Hand the leadership over; to a server id, or to any server."""

    datacenter: str = ""
    id: str = ""


class TransferLeaderResponse(Record, frozen=True, kw_only=True):
    """Whether it was handed over."""

    success: bool = False


class RaftStats(Record, frozen=True, kw_only=True):
    """What a server says of its copy of the data.

    Attributes:
        last_contact: Since it heard of the leader, as Go writes durations.
        last_term: Of the storage's elections.
        last_index: Up to where its copy reaches.
    """

    last_contact: str = ""
    last_term: Uint = 0
    last_index: Uint = 0


class AutopilotConfig(Record, frozen=True, kw_only=True):
    """How servers come and go by themselves. Consul's defaults.

    Attributes:
        cleanup_dead_servers: Failed servers are removed from the storage.
        last_contact_threshold: A server that heard of the leader longer ago is not healthy.
        max_trailing_logs: Nor is one whose copy is so many writes behind.
        min_quorum: No server is removed below so many.
        server_stabilization_time: A new server votes after it has been healthy for so long.
    """

    cleanup_dead_servers: bool = True
    last_contact_threshold: Duration = Duration(200 * MILLISECOND)
    max_trailing_logs: Uint = 250
    min_quorum: Uint = 0
    server_stabilization_time: Duration = Duration(10 * SECOND)
    redundancy_zone_tag: str = ""
    disable_upgrade_migration: bool = False
    upgrade_version_tag: str = ""
    create_index: Uint = 0
    modify_index: Uint = 0


class AutopilotSetConfigRequest(WriteRequest, frozen=True, kw_only=True):
    """Change it; with `cas` only if its modify index is still that of `config`."""

    datacenter: str = ""
    config: AutopilotConfig = AutopilotConfig()
    cas: bool = msgspec.field(default=False, name="CAS")


class AutopilotServerHealth(Record, frozen=True, kw_only=True):
    """How one server is.

    Attributes:
        serf_status: 1 alive, 4 failed, as in gossip.
        last_contact: Since it heard of the leader.
        stable_since: Since when it has been as healthy as it is.
    """

    id: str = ""
    name: str = ""
    address: str = ""
    serf_status: int = 0
    version: str = ""
    leader: bool = False
    last_contact: Duration = Duration(0)
    last_term: Uint = 0
    last_index: Uint = 0
    healthy: bool = False
    voter: bool = False
    stable_since: Timestamp = Timestamp()


class AutopilotHealthReply(Record, frozen=True, kw_only=True):
    """How the servers are, all together.

    Attributes:
        failure_tolerance: How many healthy voters may be lost without losing the majority.
    """

    healthy: bool = False
    failure_tolerance: int = 0
    servers: tuple[AutopilotServerHealth, ...] | None = None


class AutopilotServer(Record, frozen=True, kw_only=True):
    """One server in ``/v1/operator/autopilot/state``."""

    id: str = ""
    name: str = ""
    address: str = ""
    node_status: str = ""
    version: str = ""
    last_contact: Duration = Duration(0)
    last_term: Uint = 0
    last_index: Uint = 0
    healthy: bool = False
    stable_since: Timestamp = Timestamp()
    read_replica: bool = False
    status: str = ""
    meta: dict[str, str] | None = None
    node_type: str = ""


class AutopilotState(Record, frozen=True, kw_only=True):
    """Everything about the servers."""

    healthy: bool = False
    failure_tolerance: int = 0
    optimistic_failure_tolerance: int = 0
    servers: dict[str, AutopilotServer] | None = None
    leader: str = ""
    voters: tuple[str, ...] | None = None
