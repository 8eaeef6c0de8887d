"""The servers of our datacenter: ``Operator``. Source: protocol/http-api.md §6.8."""

from collections.abc import Mapping
from typing import Final

import msgspec

from isthmus.errors import InvalidRequest
from isthmus.model.operator import (
    AutopilotConfig,
    AutopilotHealthReply,
    AutopilotSetConfigRequest,
    AutopilotState,
    RaftConfigurationResponse,
    RaftRemovePeerRequest,
    TransferLeaderRequest,
    TransferLeaderResponse,
)
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.server.endpoints.context import Context, Handler

_EMPTY: Final = Empty()


async def configuration(context: Context, request: DatacenterRequest) -> RaftConfigurationResponse:
    """Who keeps our datacenter's data."""
    return await context.operator.configuration()


async def remove_peer(context: Context, request: RaftRemovePeerRequest) -> Empty:
    """Remove a server from those that keep the data.

    Raises:
        RequestError: It is none of them, or must stay.
    """
    await context.operator.remove(request)
    return _EMPTY


async def autopilot_configuration(context: Context, request: DatacenterRequest) -> AutopilotConfig:
    """What holds for servers that come and go."""
    return context.store.autopilot.get()


async def set_autopilot_configuration(context: Context, request: AutopilotSetConfigRequest) -> bool:
    """Change that; False: it was changed by somebody else meanwhile.

    Raises:
        InvalidRequest: A value makes no sense.
    """
    config = request.config
    if config.last_contact_threshold < 0 or config.server_stabilization_time < 0:
        raise InvalidRequest("autopilot: a duration is negative")
    done = await context.commit(msgspec.structs.replace(request, datacenter=context.dc, token=""))
    return bool(done)


async def health(context: Context, request: DatacenterRequest) -> AutopilotHealthReply:
    """How each server is."""
    return await context.operator.health()


async def state(context: Context, request: DatacenterRequest) -> AutopilotState:
    """Everything about the servers."""
    return await context.operator.state()


async def transfer(context: Context, request: TransferLeaderRequest) -> TransferLeaderResponse:
    """Hand the leadership over; the answer comes when another server leads.

    Raises:
        RequestError: There is nobody who could lead.
    """
    await context.operator.transfer(request.id)
    return TransferLeaderResponse(success=True)


METHODS: Final[Mapping[str, Handler]] = {
    "RaftGetConfiguration": configuration,
    "RaftRemovePeerByAddress": remove_peer,
    "RaftRemovePeerByID": remove_peer,
    "AutopilotGetConfiguration": autopilot_configuration,
    "AutopilotSetConfiguration": set_autopilot_configuration,
    "ServerHealth": health,
    "AutopilotState": state,
    "TransferLeader": transfer,
}
