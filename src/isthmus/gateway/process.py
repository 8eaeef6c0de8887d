"""The gateway process: listeners, data plane and control put together, and its signals."""

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import FrameType
from typing import Final
from urllib.parse import quote

from isthmus.errors import ConfigError, MalformedPacket, Mistake, Unavailable
from isthmus.gateway.agent import Agent, AgentAddress
from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.control import Backoff, Control, RoutesFile
from isthmus.gateway.proxy import Proxy, listen
from isthmus.gateway.registration import (
    GatewayService,
    Registrar,
    listen_addresses,
    registered_addresses,
    registration,
)
from isthmus.names import host_port

_log = logging.getLogger(__name__)

_DEREGISTER_TIMEOUT: Final = 2.0
_REGISTRATION_TIMEOUT: Final = 10.0
LOG_LEVELS: Final = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "err": logging.ERROR,
    "error": logging.ERROR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """All that a gateway process is started with.

    Attributes:
        agent: Where routes come from.
        service: The gateway as a service.
        register: Register it with the agent, and deregister it when the process stops.
        listen_as_registered: Listen where the agent's registration of the service says; it is
            waited for.
        routes_file: Keeps the last route table; empty for none.
        log_level: One of `LOG_LEVELS`.
        config: Limits and delays of the data plane.
    """

    agent: AgentAddress
    service: GatewayService
    register: bool = False
    listen_as_registered: bool = False
    routes_file: str = ""
    log_level: str = "info"
    config: GatewayConfig = field(default_factory=GatewayConfig)


def is_local(host: str) -> bool:
    """Whether `host` is an IP address of this machine, so that it can be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True


def await_registration(
    agent: Agent, service_id: str, *, sleep: Callable[[float], None]
) -> list[tuple[str, int]]:
    """Ask the agent where the gateway shall listen until it knows.

    Args:
        agent: The local agent.
        service_id: Of the gateway, which somebody else registers.
        sleep: Waits for so many seconds.

    Raises:
        ConfigError: It is registered in a way that cannot be listened on.
    """
    backoff = Backoff(Random())
    path = f"/v1/agent/service/{quote(service_id, safe='')}"
    told = ""
    while True:
        try:
            reply = agent.request("GET", path, timeout=_REGISTRATION_TIMEOUT)
            if reply.status == 200:
                return registered_addresses(reply.body)
            trouble = f"{reply.status} {reply.text}"
        except (Unavailable, MalformedPacket) as error:
            trouble = str(error)
        if trouble != told:
            _log.warning("waiting for the registration of %s: %s", service_id, trouble)
            told = trouble
        sleep(backoff.take())


def run_gateway(settings: GatewaySettings) -> int:
    """Run a gateway until SIGTERM or SIGINT; SIGUSR1 logs its counters.

    Stopping deregisters first, so that nobody is sent to a closed port, then accepts no more and
    gives open connections `drain_timeout`. A second signal stops at once.

    Returns:
        Exit code: 0 after a stop.

    Raises:
        ConfigError: An address cannot be listened on; nothing was registered.
    """
    _log_to_stderr(settings.log_level)
    service = settings.service
    wan_is_local = service.wan is not None and is_local(service.wan[0])
    agent = Agent(settings.agent)
    if settings.listen_as_registered:
        addresses = await_registration(agent, service.id, sleep=time.sleep)
    else:
        addresses = listen_addresses(service, wan_is_local=wan_is_local)
    proxy = Proxy(settings.config, [listen(*address) for address in addresses])
    body = registration(service, wan_is_local=wan_is_local)
    control = Control(
        agent,
        service.id,
        proxy.set_routes,
        registrar=Registrar(agent, service.id, body) if settings.register else None,
        file=RoutesFile(settings.routes_file),
        rng=Random(),
    )
    _handle_signals(proxy, control)
    control.start()
    for address in proxy.addresses:
        _log.info("listening on %s", host_port(*address))
    gc.collect()
    gc.freeze()
    proxy.run()
    _log.info("stopped")
    return 0


def _handle_signals(proxy: Proxy, control: Control) -> None:
    stopping = threading.Event()

    def shut_down() -> None:
        control.stop(timeout=_DEREGISTER_TIMEOUT)
        proxy.stop()

    def on_stop(number: int, frame: FrameType | None) -> None:
        del frame
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()
        threading.Thread(target=shut_down, name="shut down").start()

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    signal.signal(signal.SIGUSR1, lambda number, frame: proxy.log_counters())


def _log_to_stderr(level: str) -> None:
    if level not in LOG_LEVELS:
        mistake = Mistake(
            "flag", "-log-level", f"unknown level {level!r}", f"one of {', '.join(LOG_LEVELS)}"
        )
        raise ConfigError([mistake])
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormat())
    logging.basicConfig(handlers=[handler], level=LOG_LEVELS[level])


class _LogFormat(logging.Formatter):
    """Lines as the agent writes them: ``2026-01-02T03:04:05.678Z [INFO]  module: text: dc=dc2``."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"
    _ordinary: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - Of the base class.
        """One line with the record's extra fields behind the message."""
        short = {"WARNING": "WARN"}.get(record.levelname, record.levelname)
        level, name = f"[{short}]", record.name.removeprefix("isthmus.")
        line = f"{self.formatTime(record)} {level:<7} {name}: {record.message}"
        extra = " ".join(
            f"{field}={value}"
            for field, value in vars(record).items()
            if field not in self._ordinary
        )
        return f"{line}: {extra}" if extra else line
