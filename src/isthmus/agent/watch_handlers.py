"""Who is told of the news of a watch: a program of the operator's, or a URL.

Source: Consul 1.10, agent: news are JSON, a program finds them on its standard input and their
index in ``CONSUL_INDEX``.
"""

import asyncio
import logging
import os
from typing import Any, Final

from isthmus.agent.checks.http import failure, http_library, one_request_session
from isthmus.agent.checks.result import Tail
from isthmus.agent.checks.script import run_program
from isthmus.agent.checks.tls import CheckTls
from isthmus.model.watch_definition import HttpHandler, ProgramHandler
from isthmus.model.watch_plan import WatchNews

logger = logging.getLogger(__name__)

PROGRAM_TIMEOUT: Final = 600.0
"""Seconds that a program may run; then it and its children are killed. Consul waits for ever."""
OUTPUT_SIZE_MAX: Final = 4096
"""Bytes of a handler's output that get into the log; Consul's number."""
_SHELL: Final = "/bin/sh"
_PIECE_SIZE: Final = 64 * 1024


async def tell(handler: ProgramHandler | HttpHandler, news: WatchNews) -> None:
    """Tell a handler; what goes wrong is in the log."""
    if isinstance(handler, ProgramHandler):
        await _run(handler, news)
    else:
        await _send(handler, news)


async def _run(handler: ProgramHandler, news: WatchNews) -> None:
    environment = {**os.environ, "CONSUL_INDEX": news.index}
    shell = os.environ.get("SHELL") or _SHELL
    args = handler.args or (shell, "-c", handler.script)
    told = {"watch_handler": handler.script or " ".join(handler.args)}
    try:
        end = await run_program(
            args,
            timeout=PROGRAM_TIMEOUT,
            output_size_max=OUTPUT_SIZE_MAX,
            data=news.encode(),
            environment=environment,
        )
    except (OSError, ValueError) as error:
        logger.error("watch handler cannot be started: %s", error, extra=told)
        return
    output = end.output.text_with_notice
    if end.code is None:
        logger.error(
            "watch handler killed, it ran for %g s: %s", PROGRAM_TIMEOUT, output, extra=told
        )
    elif end.code:
        logger.error("watch handler failed with code %d: %s", end.code, output, extra=told)
    else:
        logger.debug("watch handler done: %s", output, extra=told)


async def _send(handler: HttpHandler, news: WatchNews) -> None:
    aiohttp: Any = await http_library()
    told = {"watch_handler": handler.url}
    headers = [
        ("Content-Type", "application/json"),
        ("X-Consul-Index", news.index),
        *handler.headers,
    ]
    output = Tail(OUTPUT_SIZE_MAX)
    try:
        async with (
            asyncio.timeout(handler.timeout),
            one_request_session(aiohttp) as session,
            session.request(
                handler.method,
                handler.url,
                data=news.encode(),
                headers=headers,
                ssl=CheckTls().context(skip_verify=handler.tls_skip_verify),
            ) as answer,
        ):
            while piece := await answer.content.read(_PIECE_SIZE):
                output.add(piece)
    except TimeoutError:
        logger.error("watch handler did not answer within %g s", handler.timeout, extra=told)
    except (OSError, ValueError, aiohttp.ClientError) as error:
        logger.error("watch handler cannot be told: %s", failure(error), extra=told)
    else:
        if 200 <= answer.status < 300:
            logger.debug("watch handler done: %s", output.text_with_notice, extra=told)
        else:
            logger.error(
                "watch handler answered %d: %s",
                answer.status,
                output.text_with_notice,
                extra=told,
            )
