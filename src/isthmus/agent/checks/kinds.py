"""Which kinds of checks there are, and what to use in place of those that there are not."""

from typing import Final

from isthmus.errors import InvalidRequest
from isthmus.model import agent
from isthmus.model.agent import CheckDefinition

_INSTEAD: Final = {
    agent.DOCKER: (
        "Docker checks are not supported: use a script check that runs `docker exec CONTAINER "
        "COMMAND`, or a TCP, HTTP or gRPC check of a port of the container"
    ),
    agent.H2PING: (
        "H2PING checks are not supported: use a gRPC check, an HTTP check, or a TCP check of the "
        "same address"
    ),
}


def refuse_unknown_kind(definition: CheckDefinition) -> None:
    """Refuse a check that this agent can not run.

    Raises:
        InvalidRequest: Says what to use instead.
    """
    if definition.docker_container_id:
        raise InvalidRequest(f"Invalid check: {_INSTEAD[agent.DOCKER]}")
    if instead := _INSTEAD.get(definition.type):
        raise InvalidRequest(f"Invalid check: {instead}")
