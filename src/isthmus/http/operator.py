"""``/v1/operator``: the servers of a datacenter, by Consul's names.

Source: protocol/http-api.md §6.8.
"""

from typing import Final

import msgspec

from isthmus.errors import InvalidRequest
from isthmus.http.context import Context
from isthmus.http.decode import decode
from isthmus.http.options import parse_uint, read_options
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Route
from isthmus.model.operator import (
    AutopilotConfig,
    AutopilotHealthReply,
    AutopilotServerHealth,
    AutopilotSetConfigRequest,
    AutopilotState,
    RaftConfigurationResponse,
    RaftRemovePeerRequest,
    TransferLeaderRequest,
    TransferLeaderResponse,
)
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.model.record import Record, Uint
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration

_NEITHER: Final = (
    "Bad request: Must specify either ?id with the server's ID or ?address with IP:port of peer "
    "to remove"
)
_BOTH: Final = "Bad request: Must specify only one of ?id or ?address"
_SERF_STATUS: Final = {1: "alive", 2: "leaving", 3: "left", 4: "failed"}
_HALF_A_SECOND: Final = 500_000_000
_UNHEALTHY: Final = 429  # As Consul answers, so that a load balancer understands it.


class _ServerView(Record, frozen=True, kw_only=True):
    """A server's health as JSON has it: a word for the status, whole seconds of the moment."""

    id: str = ""
    name: str = ""
    address: str = ""
    serf_status: str = ""
    version: str = ""
    leader: bool = False
    last_contact: Duration = Duration(0)
    last_term: Uint = 0
    last_index: Uint = 0
    healthy: bool = False
    voter: bool = False
    stable_since: Timestamp = Timestamp()


class _HealthView(Record, frozen=True, kw_only=True):
    """All servers so."""

    healthy: bool = False
    failure_tolerance: int = 0
    servers: tuple[_ServerView, ...] = ()


async def configuration(context: Context, request: Request) -> Response:
    """Who keeps the datacenter's data."""
    reply = await context.call(
        "Operator.RaftGetConfiguration", _request(context, request), RaftConfigurationResponse
    )
    return context.json(request, reply)


async def remove_peer(context: Context, request: Request) -> Response:
    """Remove a server from them."""
    server_id, address = request.query.first("id"), request.query.first("address")
    if not server_id and not address:
        raise InvalidRequest(_NEITHER, status=400)
    if server_id and address:
        raise InvalidRequest(_BOTH, status=400)
    method = "Operator.RaftRemovePeerByID" if server_id else "Operator.RaftRemovePeerByAddress"
    await context.call(
        method,
        RaftRemovePeerRequest(
            datacenter=_request(context, request).datacenter,
            id=server_id,
            address=address,
            token=request.token,
        ),
        Empty,
    )
    return Response()


async def transfer_leader(context: Context, request: Request) -> Response:
    """Hand the leadership over."""
    reply = await context.call(
        "Operator.TransferLeader",
        TransferLeaderRequest(
            datacenter=_request(context, request).datacenter,
            id=request.query.first("id"),
            token=request.token,
        ),
        TransferLeaderResponse,
    )
    return context.json(request, reply)


async def autopilot_configuration(context: Context, request: Request) -> Response:
    """What holds for servers that come and go."""
    reply = await context.call(
        "Operator.AutopilotGetConfiguration", _request(context, request), AutopilotConfig
    )
    return context.json(request, reply)


async def set_autopilot_configuration(context: Context, request: Request) -> Response:
    """Change that; with ``?cas=INDEX`` only if nobody else did."""
    config = decode(
        AutopilotConfig, request.body, prefix="Bad request: Error parsing autopilot config: "
    )
    cas = "cas" in request.query
    if cas:
        index = parse_uint(request.query.first("cas"))
        if index is None:
            quoted = msgspec.json.encode(request.query.first("cas")).decode()
            text = f"strconv.ParseUint: parsing {quoted}: invalid syntax"
            raise InvalidRequest(f"Bad request: Error parsing cas value: {text}")
        config = msgspec.structs.replace(config, modify_index=index)
    done = await context.call(
        "Operator.AutopilotSetConfiguration",
        AutopilotSetConfigRequest(
            datacenter=_request(context, request).datacenter,
            config=config,
            cas=cas,
            token=request.token,
        ),
        bool,
    )
    return context.json(request, done)


async def health(context: Context, request: Request) -> Response:
    """How each server is; 429 when not all are well."""
    reply = await context.call(
        "Operator.ServerHealth", _request(context, request), AutopilotHealthReply
    )
    shown = _HealthView(
        healthy=reply.healthy,
        failure_tolerance=reply.failure_tolerance,
        servers=tuple([_view(one) for one in reply.servers or ()]),
    )
    response = context.json(request, shown)
    return response if reply.healthy else Response(_UNHEALTHY, response.headers, response.body)


def _view(server: AutopilotServerHealth) -> _ServerView:
    fields = msgspec.structs.asdict(server)
    since = server.stable_since
    fields["stable_since"] = Timestamp(since.seconds + (since.nanoseconds >= _HALF_A_SECOND))
    fields["serf_status"] = _SERF_STATUS.get(server.serf_status, "none")
    return _ServerView(**fields)


async def state(context: Context, request: Request) -> Response:
    """Everything about the servers."""
    reply = await context.call(
        "Operator.AutopilotState", _request(context, request), AutopilotState
    )
    return context.json(request, reply)


def _request(context: Context, request: Request) -> DatacenterRequest:
    options = read_options(request, context.local.datacenter)
    return DatacenterRequest(**options.fields())  # type: ignore[arg-type]


ROUTES: Final = (
    Route("/v1/operator/raft/configuration", {"GET": configuration}),
    Route("/v1/operator/raft/peer", {"DELETE": remove_peer}),
    Route("/v1/operator/raft/transfer-leader", {"POST": transfer_leader, "PUT": transfer_leader}),
    Route(
        "/v1/operator/autopilot/configuration",
        {"GET": autopilot_configuration, "PUT": set_autopilot_configuration},
    ),
    Route("/v1/operator/autopilot/health", {"GET": health}),
    Route("/v1/operator/autopilot/state", {"GET": state}),
)
