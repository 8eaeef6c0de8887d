"""What isthmus servers tell each other that Consul's do not: ``Isthmus``.

A Consul server answers that it has no such service, which is an answer too.
"""

from collections.abc import Mapping
from typing import Final

from isthmus.model.diagnosis import Clock, FederationReport
from isthmus.model.query import DatacenterRequest
from isthmus.model.timestamp import Timestamp
from isthmus.server.endpoints.context import Context, Handler


async def clock(context: Context, request: DatacenterRequest) -> Clock:
    """What our calendar clock shows."""
    return Clock(time=Timestamp.of(context.wall()))


async def report(context: Context, request: DatacenterRequest) -> FederationReport:
    """How the federation fares, as this server sees it."""
    return context.report()


METHODS: Final[Mapping[str, Handler]] = {"Clock": clock, "Report": report}
