"""The proxy: listening sockets in front of an exchange, on a loop of its own."""

import contextlib
import copy
import dataclasses
import errno
import functools
import logging
import resource
import socket
import threading
from collections.abc import Sequence
from typing import Final

import msgspec

from isthmus.errors import ConfigError, Mistake
from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.connection import Exchange
from isthmus.gateway.counters import Counters
from isthmus.gateway.loop import Loop
from isthmus.gateway.stream import Socket, accept, set_options
from isthmus.gateway.timers import Timers
from isthmus.mesh.routes import RouteTable
from isthmus.names import host_port

_log = logging.getLogger(__name__)

ACCEPTS_MAX: Final = 64
"""Connections accepted in one turn of the loop."""
_BACKLOG: Final = 4_096
_DEFER_ACCEPT: Final = 5
"""Seconds for which the kernel keeps a connection that has sent nothing to itself."""
_ACCEPT_PAUSE: Final = 0.1
_DESCRIPTORS_SPARE: Final = 64
"""Descriptors kept out of the connections' reach: listeners, agent, routes file, logs."""
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def listen(host: str, port: int) -> Socket:
    """Open a listening socket of the gateway; port 0 picks a free one.

    Raises:
        ConfigError: The address cannot be bound; it says which and why.
    """
    with contextlib.ExitStack() as on_failure:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            sock = Socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, proto)
            on_failure.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_ACCEPT)
            set_options(sock)  # Accepted sockets inherit them.
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            where = host_port(host, port)
            text = f"cannot listen on {where}: {error.strerror}"
            raise ConfigError([Mistake("flag", "-bind-address", text)]) from error
        on_failure.pop_all()
    return sock


class Proxy:
    """A gateway's data plane. `run` occupies one thread; the other methods are safe in any.

    Args:
        config: Limits and delays.
        listeners: Sockets of `listen`; the proxy closes them.
    """

    def __init__(self, config: GatewayConfig, listeners: Sequence[Socket]) -> None:
        self._loop = Loop()
        self._exchange = Exchange(self._loop, fit_to_descriptors(config))
        self._listeners = list(listeners)
        self.addresses: list[tuple[str, int]] = [sock.getsockname()[:2] for sock in listeners]
        """Addresses listened on, with real ports, in the order of `listeners`."""
        self._draining = False
        self._drained = False
        self._pauses: Timers[None] = Timers(_ACCEPT_PAUSE, lambda _: self._watch_listeners())
        self._drains: Timers[None] = Timers(config.drain_timeout, lambda _: self._end_drain())
        self._loop.add_timers(self._pauses)
        self._loop.add_timers(self._drains)
        self._watch_listeners()

    def set_routes(self, routes: RouteTable) -> None:
        """Put a new route table in force, whole; open connections keep their endpoints."""
        self._loop.call_from_thread(lambda: self._exchange.set_routes(routes))

    def stop(self) -> None:
        """Accept no more, let open connections end within `drain_timeout`; `run` then returns."""
        self._loop.call_from_thread(self._drain)

    def counters(self, *, timeout: float = 5.0) -> Counters:
        """Copy of all counters as they are now; not for the thread that runs the proxy.

        Raises:
            TimeoutError: The proxy does not run.
        """
        copied: list[Counters] = []
        done = threading.Event()

        def take() -> None:
            copied.append(self._count())
            done.set()

        self._loop.call_from_thread(take)
        if not done.wait(timeout):
            raise TimeoutError("the proxy does not run")
        return copied[0]

    def log_counters(self) -> None:
        """Log all counters; also safe in a signal handler."""
        self._loop.call_from_thread(
            lambda: _log.info("counters %s", msgspec.json.encode(self._count()).decode())
        )

    def run(self) -> None:
        """Carry traffic until `stop`; then everything is closed."""
        try:
            while not self._drained:
                self._loop.turn()
                if self._draining and not self._exchange.connections:
                    self._drained = True
        finally:
            self._close_listeners()
            for connection in list(self._exchange.connections):
                connection.abort()
            self._exchange.carriage.pipes.close()
            self._loop.close()

    def _watch_listeners(self) -> None:
        for sock in self._listeners:
            self._loop.watch_listener(sock, functools.partial(self._accept, sock))

    def _accept(self, listener: Socket, mask: int) -> None:
        del mask
        for _ in range(ACCEPTS_MAX):
            try:
                client = accept(listener)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause()
                    return
                continue  # The client is gone already.
            self._exchange.admit(client)

    def _pause(self) -> None:
        """Leave waiting connections to the kernel for a moment: there is nothing to accept with."""
        self._exchange.counters.accept_failures += 1
        for sock in self._listeners:
            self._loop.unwatch(sock)
        self._pauses.start(None, now=self._loop.now)

    def _drain(self) -> None:
        if not self._draining:
            self._draining = True
            self._close_listeners()
            self._pauses.stop(None)
            self._drains.start(None, now=self._loop.now)
            _log.info("draining", extra={"open": len(self._exchange.connections)})

    def _end_drain(self) -> None:
        self._drained = True

    def _close_listeners(self) -> None:
        for sock in self._listeners:
            self._loop.unwatch(sock)
            sock.close()
        self._listeners.clear()

    def _count(self) -> Counters:
        counters = copy.deepcopy(self._exchange.counters)
        by_identity = {
            id(live): counters.routes[pattern]
            for pattern, live in self._exchange.counters.routes.items()
        }
        counters.open = len(self._exchange.connections)
        for connection in self._exchange.connections:
            copied = by_identity.get(id(connection.counters))
            if copied is not None:
                up, down = connection.bytes_moved()
                copied.bytes_up += up
                copied.bytes_down += down
        return counters


def fit_to_descriptors(config: GatewayConfig) -> GatewayConfig:
    """Raise the limit of open files to what `config` may need, else lower `connections_max`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (config.connections_max + config.pipes_max) + _DESCRIPTORS_SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return config
    pipes = min(config.pipes_max, soft // 8)
    connections = max(soft // 2 - pipes - _DESCRIPTORS_SPARE // 2, 1)
    return dataclasses.replace(
        config,
        connections_max=connections,
        hellos_max=min(config.hellos_max, connections),
        pipes_max=pipes,
    )
