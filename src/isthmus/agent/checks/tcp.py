"""A check that connects."""

import asyncio
import contextlib

from isthmus.agent.checks.result import Result, critical, dial_failure
from isthmus.model.catalog import PASSING
from isthmus.names import split_host_port


async def probe_tcp(address: str, *, timeout: float) -> Result:
    """Connect to ``host:port`` and hang up; of several addresses of a host one is enough."""
    try:
        host, port = split_host_port(address)
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=0.25)
    except TimeoutError:
        return critical(f"dial tcp {address}: i/o timeout")
    except OSError as error:
        return critical(dial_failure(error, host, port))
    except ValueError as error:
        return critical(f"dial tcp {address}: {error}")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Result(PASSING, f"TCP connect {address}: Success")
