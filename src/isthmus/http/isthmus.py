"""``/v1/isthmus/federation``: how the federation fares, and which hop of it is broken.

Our own endpoints; Consul has none.
"""

from typing import Final

from isthmus.http.context import Context
from isthmus.http.options import read_options
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Route
from isthmus.model.diagnosis import FederationReport
from isthmus.model.query import DatacenterRequest


async def federation(context: Context, request: Request) -> Response:
    """The federation as a server sees it: ours, or with ``dc`` one of another datacenter."""
    options = read_options(request, context.local.datacenter)
    answer = await context.call(
        "Isthmus.Report",
        DatacenterRequest(datacenter=options.datacenter, token=options.token),
        FederationReport,
    )
    return context.json(request, answer)


async def doctor(context: Context, request: Request) -> Response:
    """Examine every way, or with ``datacenter`` those to and from one datacenter.

    It dials, so it is a PUT; it changes nothing, and takes some ten seconds at the most.
    """
    report = await context.local.diagnose(request.query.first("datacenter"))
    return context.json(request, report)


async def migrate_storage(context: Context, request: Request) -> Response:
    """Move the data of the datacenter's one server to etcd, while it is served."""
    await context.local.move_storage()
    return Response()


ROUTES: Final = (
    Route("/v1/isthmus/storage/migrate", {"PUT": migrate_storage}),
    Route("/v1/isthmus/federation", {"GET": federation}),
    Route("/v1/isthmus/federation/doctor", {"PUT": doctor}),
)
