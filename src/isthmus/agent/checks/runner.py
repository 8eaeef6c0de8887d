"""Running one check: at its interval, until its time runs out, or after another service.

Source: protocol/http-api.md §6.3; Consul 1.10, agent/checks.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from isthmus.agent.checks.alias import LocalAlias, RemoteAlias, Rpc
from isthmus.agent.checks.grpc import probe_grpc
from isthmus.agent.checks.http import probe_http
from isthmus.agent.checks.result import Result, cut_note
from isthmus.agent.checks.script import SCRIPT_TIMEOUT_DEFAULT, probe_script
from isthmus.agent.checks.tcp import probe_tcp
from isthmus.agent.checks.thresholds import Thresholds
from isthmus.agent.checks.tls import CheckTls
from isthmus.agent.local import LocalState
from isthmus.errors import InvalidRequest
from isthmus.model import agent
from isthmus.model.agent import CheckDefinition
from isthmus.model.catalog import CRITICAL
from isthmus.units import SECOND

logger = logging.getLogger(__name__)

TIMEOUT_DEFAULT: Final = 10.0  # Consul's, of all but scripts.
OUTPUT_SIZE_MAX: Final = 4096  # Consul's check_output_max_size.
INTERVAL_MIN: Final = 1.0  # Consul's.
DEREGISTER_AFTER_MIN: Final = 60.0  # Consul's.
PROBES_MAX: Final = 512
"""Probes over the network at a time; others wait for their turn."""
SCRIPTS_MAX: Final = 64
"""Programs at a time."""
_EXPIRED: Final = "TTL expired"


@dataclass(slots=True, kw_only=True)
class CheckWorld:
    """What checks have in common.

    Attributes:
        local: Services and checks of the node.
        rpc: Calls to the servers of our datacenter.
        rng: Spreads first runs over the interval.
        tls: Contexts with which checks dial.
        output_size_max: Bytes of output that are kept, unless a check wants less.
    """

    local: LocalState
    rpc: Rpc
    rng: Random
    tls: CheckTls = field(default_factory=CheckTls)
    output_size_max: int = OUTPUT_SIZE_MAX
    probes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PROBES_MAX))
    scripts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SCRIPTS_MAX))


class CheckRunner:
    """Runs one check.

    Args:
        definition: What to do; its `check_id` is set.
        world: What checks have in common.
        deregister: Called when the check was critical for as long as the definition says.
        token: With which other nodes are asked about.
    """

    def __init__(
        self,
        definition: CheckDefinition,
        world: CheckWorld,
        *,
        deregister: Callable[[], None],
        token: str = "",
    ) -> None:
        self.definition = definition
        self._world, self._deregister, self._token = world, deregister, token
        self._thresholds = Thresholds(definition)
        self._output_size_max = world.output_size_max
        if 0 < definition.output_max_size < world.output_size_max:
            self._output_size_max = definition.output_max_size
        self._heard = asyncio.Event()
        self._last_output = ""  # What the owner of a TTL check sent last.
        self._expiry: asyncio.TimerHandle | None = None  # Runs while the check is critical.

    def heard(self, status: str, output: str) -> str:
        """Take a result that a TTL check's owner sends; returns the output that is kept of it.

        Raises:
            InvalidRequest: It is no TTL check.
        """
        if self.definition.type != agent.TTL:
            check_id = self.definition.check_id
            raise InvalidRequest(f'CheckID "{check_id}" does not have associated TTL', status=500)
        self._last_output = cut_note(output, self._output_size_max)
        self._tell(status, self._last_output)
        self._heard.set()
        return self._last_output

    def registered_again(self) -> None:
        """Its owner registered the very same check: that is a sign of life of it."""
        self._heard.set()

    async def run(self) -> None:
        """Check until cancelled."""
        try:
            await self._work()()
        finally:
            self._stop_expiry()

    def _work(self) -> Callable[[], Awaitable[None]]:
        definition, world = self.definition, self._world
        if definition.type == agent.TTL:
            return self._wait_for_owner
        if definition.type != agent.ALIAS:
            return self._run_at_intervals
        if not definition.alias_node:
            return LocalAlias(definition, world.local, self._follow).run
        return RemoteAlias(
            definition,
            dc=world.local.facts.dc,
            rpc=world.rpc,
            token=self._token,
            report=self._follow,
            rng=world.rng,
        ).run

    async def _run_at_intervals(self) -> None:
        interval = max(self.definition.interval / SECOND, INTERVAL_MIN)
        await asyncio.sleep(self._world.rng.random() * interval)
        while True:
            result = await self._probe()
            status = result.status if result.certain else self._thresholds.judge(result.status)
            if status is not None:
                self._tell(status, result.output)
            await asyncio.sleep(interval)

    async def _probe(self) -> Result:
        definition, world = self.definition, self._world
        default = SCRIPT_TIMEOUT_DEFAULT if definition.type == agent.SCRIPT else TIMEOUT_DEFAULT
        timeout = definition.timeout / SECOND if definition.timeout > 0 else default
        size = self._output_size_max
        if definition.type == agent.SCRIPT:
            async with world.scripts:
                args = definition.script_args or ()
                return await probe_script(args, timeout=timeout, output_size_max=size)
        async with world.probes:
            if definition.type == agent.TCP:
                return await probe_tcp(definition.tcp, timeout=timeout)
            if definition.type == agent.GRPC:
                return await probe_grpc(definition, timeout=timeout, tls=world.tls)
            assert definition.type == agent.HTTP, definition.type
            return await probe_http(
                definition, timeout=timeout, output_size_max=size, tls=world.tls
            )

    async def _wait_for_owner(self) -> None:
        ttl = self.definition.ttl / SECOND
        while True:
            self._heard.clear()
            try:
                async with asyncio.timeout(ttl):
                    await self._heard.wait()
            except TimeoutError:
                last = self._last_output
                self._tell(
                    CRITICAL,
                    f"{_EXPIRED} (last output before timeout follows): {last}"
                    if last
                    else _EXPIRED,
                )

    def _follow(self, result: Result) -> None:
        self._tell(result.status, cut_note(result.output, self._output_size_max))

    def _tell(self, status: str, output: str) -> None:
        self._world.local.update_check(self.definition.check_id, status, output)
        if status != CRITICAL:
            self._stop_expiry()
            return
        limit = self.definition.deregister_critical_service_after / SECOND
        if limit > 0 and self._expiry is None and self.definition.service_id:
            limit = max(limit, DEREGISTER_AFTER_MIN)
            self._expiry = asyncio.get_running_loop().call_later(limit, self._expire, limit)

    def _expire(self, limit: float) -> None:
        self._expiry = None
        check_id = self.definition.check_id
        logger.info("check %s was critical for %g s: its service goes", check_id, limit)
        self._deregister()

    def _stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
