"""What an agent says about its federation: how it fares, and which hop of it is broken.

Ours alone; Consul has no such records. They travel as JSON only.
"""

from isthmus.model.record import Record, Uint
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration

OK = "ok"
BROKEN = "broken"
UNKNOWN = "unknown"
"""Nothing proves it and nothing speaks against it: an earlier hop is broken, or nobody can tell."""


class Clock(Record, frozen=True, kw_only=True):
    """What a server's calendar clock shows. Reply of ``Isthmus.Clock``."""

    time: Timestamp = Timestamp()


class GatewayReport(Record, frozen=True, kw_only=True):
    """One mesh gateway as this server dialled it.

    Attributes:
        address: ``host:port`` that was dialled.
        role: ``local`` (one of ours), ``primary`` (replicated), ``configured``
            (`primary_gateways`); several joined by commas; empty for one that is not in use now.
        datacenters: Where to it was dialled.
        attempts: Dials, since the agent started.
        failures: Those of them that failed.
        last_used: Latest dial; zero for never.
        dial_time: Of the latest dial that worked, with TLS handshake.
        last_error: Of the latest dial that failed; kept when later ones worked.
        last_error_at: When that was; zero for never.
        failing_since: First of the failures that no success followed; zero while it works.
    """

    address: str = ""
    role: str = ""
    datacenters: tuple[str, ...] = ()
    attempts: Uint = 0
    failures: Uint = 0
    last_used: Timestamp = Timestamp()
    dial_time: Duration = Duration(0)
    last_error: str = ""
    last_error_at: Timestamp = Timestamp()
    failing_since: Timestamp = Timestamp()


class MemberReport(Record, frozen=True, kw_only=True):
    """A server in the WAN pool. `status` is the word of ``members -wan``."""

    name: str = ""
    datacenter: str = ""
    address: str = ""
    status: str = ""
    build: str = ""


class DatacenterReport(Record, frozen=True, kw_only=True):
    """One datacenter as this server sees it.

    Attributes:
        servers, servers_alive: Of the WAN pool.
        gateways: In its federation state.
        gateways_usable: Those with the federation meta and no critical check.
        updated_at: When its leader made its federation state; zero without one.
        state_age: Time since then; negative when its clock is ahead of ours.
        primary_modify_index, modify_index: Of that state.
        failing_since: Since when no call gets there; zero while they do, or nobody called.
        failed_step, last_error: What the latest failure was; empty while it works.
        clock_difference: Its clock minus ours, when `clock_known`.
    """

    datacenter: str = ""
    primary: bool = False
    servers: Uint = 0
    servers_alive: Uint = 0
    gateways: Uint = 0
    gateways_usable: Uint = 0
    updated_at: Timestamp = Timestamp()
    state_age: Duration = Duration(0)
    primary_modify_index: Uint = 0
    modify_index: Uint = 0
    failing_since: Timestamp = Timestamp()
    failed_step: str = ""
    last_error: str = ""
    clock_known: bool = False
    clock_difference: Duration = Duration(0)


class ReplicationReport(Record, frozen=True, kw_only=True):
    """How the copy of the primary's federation states fares.

    Attributes:
        running: Whether this server replicates: the leader of a secondary does.
        primary_index: Newest index that the primary told us.
        index: Newest of the primary's indexes that is in our store.
        last_success: Latest answer of the primary; zero for none.
        failures: In a row.
        last_error: Of the latest of them.
    """

    running: bool = False
    primary_index: Uint = 0
    index: Uint = 0
    last_success: Timestamp = Timestamp()
    failures: Uint = 0
    last_error: str = ""


class FederationReport(Record, frozen=True, kw_only=True):
    """Reply of ``Isthmus.Report``, and body of ``GET /v1/isthmus/federation``.

    Attributes:
        mesh_gateways_in_use: Whether other datacenters are reached through gateways at all.
        way_to_primary: ``local gateways``, ``primary gateways``; empty in the primary.
        way_reason: Why that way.
    """

    datacenter: str = ""
    primary_datacenter: str = ""
    node_name: str = ""
    leader: bool = False
    time: Timestamp = Timestamp()
    mesh_gateways_in_use: bool = False
    way_to_primary: str = ""
    way_reason: str = ""
    replication: ReplicationReport = ReplicationReport()
    datacenters: tuple[DatacenterReport, ...] = ()
    gateways: tuple[GatewayReport, ...] = ()
    members: tuple[MemberReport, ...] = ()


class Finding(Record, frozen=True, kw_only=True):
    """What one hop of one way was found to be.

    Attributes:
        source, target: Datacenters; equal for what a datacenter needs before it dials anybody.
        hop: Name of the hop.
        verdict: `OK`, `BROKEN` or `UNKNOWN`.
        text: What was seen.
        remedy: What to do; only for a broken hop.
    """

    json_omit_empty = frozenset({"remedy"})

    source: str = ""
    target: str = ""
    hop: str = ""
    verdict: str = OK
    text: str = ""
    remedy: str = ""


class DoctorReport(Record, frozen=True, kw_only=True):
    """Body of ``PUT /v1/isthmus/federation/doctor``: findings way by way, hop after hop."""

    datacenter: str = ""
    node_name: str = ""
    time: Timestamp = Timestamp()
    findings: tuple[Finding, ...] = ()
