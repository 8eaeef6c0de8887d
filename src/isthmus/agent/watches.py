"""The watches of an agent's configuration: each asks our own HTTP door over and over.

Source: protocol/cli-config-dns.md §2.3, ``watches``.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.model.watch_definition import HttpHandler, ProgramHandler, WatchDefinition
from isthmus.model.watch_plan import WatchAnswer, WatchFailed, WatchNews, WatchProgress
from isthmus.net.tasks import TaskScope

logger = logging.getLogger(__name__)

PAUSE: Final = 0.02
"""Seconds between an answer and the next question, so that no watch can keep us busy."""

Ask: TypeAlias = Callable[[Request], Awaitable[Response]]
Tell: TypeAlias = Callable[[ProgramHandler | HttpHandler, WatchNews], Awaitable[None]]


class Watches:
    """Asks on behalf of the configuration, and has handlers told.

    Args:
        ask: Answers a request as our HTTP door does.
        tell: Tells a handler, and returns when it is done with that.
    """

    def __init__(self, ask: Ask, tell: Tell) -> None:
        self._ask, self._tell = ask, tell
        self._running: list[tuple[WatchDefinition, asyncio.Task[None]]] = []
        self._scope = TaskScope()

    def __len__(self) -> int:
        """How many run."""
        return len(self._running)

    def load(self, definitions: Iterable[WatchDefinition]) -> None:
        """Run these and no others; those that run already go on where they are."""
        wanted = Counter(definitions)
        kept = []
        for definition, task in self._running:
            if wanted[definition]:
                wanted[definition] -= 1
                kept.append((definition, task))
            else:
                task.cancel()
        started = [(one, self._scope.spawn(self._run(one))) for one in wanted.elements()]
        self._running = kept + started

    async def close(self) -> None:
        """Stop all of them; programs that run are killed."""
        await self._scope.close()
        self._running.clear()

    async def _run(self, definition: WatchDefinition) -> None:
        progress = WatchProgress(definition.plan)
        while True:
            pause = PAUSE
            try:
                news = progress.receive_answer(await self._answer(progress))
            except WatchFailed as error:
                pause = progress.fail()
                logger.warning(
                    "watch failed, asking again in %g s: %s",
                    pause,
                    error,
                    extra={"watch": definition.plan.type},
                )
            else:
                if news is not None:
                    await self._tell(definition.handler, news)
            await asyncio.sleep(pause)

    async def _answer(self, progress: WatchProgress) -> WatchAnswer:
        token = progress.plan.token
        headers = {b"x-consul-token": token.encode("utf-8", "replace")} if token else {}
        response = await self._ask(Request("GET", progress.target(), headers))
        return WatchAnswer(
            response.status,
            response.body,
            response.header("X-Consul-Index") or "",
            response.header("X-Consul-ContentHash") or "",
        )
