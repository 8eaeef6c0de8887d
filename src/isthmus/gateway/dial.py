"""Reach one of several equal endpoints: staggered attempts, and the first that answers wins.

An attempt connects and sends the ClientHello. It has won when the first byte comes back: until
then the hello is still held, so an endpoint that refuses, hangs, or resets after it accepted
costs the client nothing as long as another one answers. The next endpoint is tried at once when
an attempt fails, and beside it when it is slow.

Should the client speak on before anyone has answered, the hello alone is no longer all that was
said; the connection then *commits* to the attempt that connected first.
"""

import collections
from functools import partial
from typing import Final, Protocol

from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.counters import Counters
from isthmus.gateway.health import EndpointHealth
from isthmus.gateway.loop import BROKEN, HANGUP, READABLE, WRITABLE, Loop
from isthmus.gateway.resolve import Resolver, is_address
from isthmus.gateway.stream import Socket, connect
from isthmus.gateway.timers import Timers
from isthmus.mesh.routes import Endpoint

_ANSWER_SIZE: Final = 16 * 1024
_PATIENCE_FACTOR: Final = 3
_LOST_ANSWERS_MAX: Final = 2
"""Endpoints that may accept and then close without an answer before the dial is given up.

One is enough to find a gateway that just died; a server that refuses its clients, or a remote
gateway that does not know the name, must not make us try them all.
"""


class Caller(Protocol):
    """Who wants the connection. It hears of exactly one end: won or failed, unless it ended it."""

    def dial_connected(self) -> None:
        """An attempt is connected and has the hello; from now on `Dial.commit` can succeed."""

    def dial_won(self, sock: Socket, data: bytes, *, more: bool) -> None:
        """An endpoint answered.

        Args:
            sock: Its socket, whose events still need a handler.
            data: The first bytes that came from it.
            more: Further bytes or its end may be there already, and go unreported.
        """

    def dial_failed(self) -> None:
        """No endpoint is left."""


class Dialer:
    """What dials share: loop, limits, timers, and the memory of how endpoints fared."""

    def __init__(self, loop: Loop, config: GatewayConfig, counters: Counters) -> None:
        self.loop, self.config, self.counters = loop, config, counters
        self.health = EndpointHealth(config)
        self.resolver = Resolver(loop)
        self.staggers: Timers[Dial] = Timers(config.stagger, lambda dial: dial.widen())
        self.patience: Timers[Dial] = Timers(
            config.answer_patience, lambda dial: dial.lose_patience()
        )
        self.connects: Timers[Dial] = Timers(config.connect_timeout, lambda dial: dial.time_out())
        for timers in (self.staggers, self.patience, self.connects):
            loop.add_timers(timers)

    def dial(self, hello: bytes, endpoints: tuple[Endpoint, ...], caller: Caller) -> "Dial":
        """Prepare a dial to one of `endpoints`; `Dial.start` begins it."""
        return Dial(self, hello, self.health.order(endpoints, now=self.loop.now), caller)


class _Attempt:
    """A connection to one endpoint, on its way or waiting for the answer to the hello."""

    __slots__ = ("connected_at", "endpoint", "sent", "sock")

    def __init__(self, endpoint: Endpoint, sock: Socket) -> None:
        self.endpoint, self.sock = endpoint, sock
        self.connected_at: float | None = None
        self.sent = 0  # Bytes of the hello that the socket took.


class Dial:
    """One dial: a queue of candidates, and the attempts under way."""

    __slots__ = (
        "_attempts",
        "_budget",
        "_caller",
        "_candidates",
        "_dialer",
        "_hello",
        "_lost_answers",
        "_over",
        "_resolving",
    )

    def __init__(
        self, dialer: Dialer, hello: bytes, candidates: list[Endpoint], caller: Caller
    ) -> None:
        self._dialer, self._caller, self._hello = dialer, caller, hello
        self._candidates = collections.deque((endpoint, endpoint.host) for endpoint in candidates)
        self._attempts: list[_Attempt] = []
        self._budget = dialer.config.attempts_max
        self._resolving = 0  # Host names that were asked for.
        self._lost_answers = 0
        self._over = False

    def start(self) -> None:
        """Begin with the first candidate; the caller may hear the outcome before this returns."""
        self._dialer.connects.start(self, now=self._dialer.loop.now)
        self.widen()

    def widen(self) -> None:
        """Try one more candidate beside those under way; give up when nothing is under way."""
        while self._candidates and self._budget and not self._over:
            if self._attempt(*self._candidates.popleft()):
                if self._candidates and not self._over:
                    self._dialer.staggers.start(self, now=self._dialer.loop.now)
                return
        if not (self._attempts or self._resolving or self._over):
            self.abandon()
            self._caller.dial_failed()

    def lose_patience(self) -> None:
        """Try one more candidate, unless an endpoint is known to take its time to answer."""
        now, health = self._dialer.loop.now, self._dialer.health
        for attempt in self._attempts:
            if attempt.connected_at is not None:
                usual = _PATIENCE_FACTOR * health.answer_seconds(attempt.endpoint)
                if now - attempt.connected_at < usual:
                    self._dialer.patience.start(self, now=now)
                    return
        self.widen()

    def time_out(self) -> None:
        """Give up the attempts that are not connected by now, and all further ones."""
        self._candidates.clear()
        self._resolving = 0
        for attempt in [late for late in self._attempts if late.connected_at is None]:
            self._drop(attempt)
            self._blame(attempt.endpoint)
        self.widen()

    def commit(self) -> Socket | None:
        """End the dial in favour of an attempt that has the hello, though it has not answered.

        Returns:
            Its socket, whose events still need a handler; None when there is no such attempt:
            then the dial goes on.
        """
        for attempt in self._attempts:
            if attempt.connected_at is not None and attempt.sent == len(self._hello):
                self._attempts.remove(attempt)
                self.abandon()
                return attempt.sock
        return None

    def abandon(self) -> None:
        """End the dial and close all of its sockets; the caller hears nothing more of it."""
        self._over = True
        for attempt in self._attempts:
            self._dialer.loop.retire(attempt.sock)
        self._attempts.clear()
        for timers in (self._dialer.connects, self._dialer.staggers, self._dialer.patience):
            timers.stop(self)

    def _attempt(self, endpoint: Endpoint, host: str) -> bool:
        """Start towards one candidate; False when that failed at once."""
        if is_address(host):
            return self._connect(endpoint, host)
        self._resolving += 1
        self._dialer.resolver.resolve(host, partial(self._resolved, endpoint))
        return True

    def _resolved(self, endpoint: Endpoint, addresses: list[str]) -> None:
        if self._over or not self._resolving:
            return
        self._resolving -= 1
        if not addresses:
            self._blame(endpoint)
        self._candidates.extendleft((endpoint, address) for address in reversed(addresses))
        self.widen()

    def _connect(self, endpoint: Endpoint, address: str) -> bool:
        self._budget -= 1
        self._dialer.counters.attempts += 1
        try:
            sock = connect(address, endpoint.port)
        except OSError:  # Out of descriptors: not the endpoint's fault.
            self._dialer.counters.attempts_failed += 1
            return False
        if sock is None:
            self._blame(endpoint)
            return False
        attempt = _Attempt(endpoint, sock)
        self._attempts.append(attempt)
        self._dialer.loop.watch(sock, partial(self._happened, attempt))
        return True

    def owns(self, descriptor: int) -> bool:
        """Whether the descriptor is a socket of one of its attempts."""
        return any(attempt.sock.fileno() == descriptor for attempt in self._attempts)

    def _happened(self, attempt: _Attempt, mask: int) -> None:
        try:
            if attempt.connected_at is None:
                if mask & BROKEN:
                    raise ConnectionRefusedError
                if mask & WRITABLE:
                    self._connected(attempt)
            elif attempt.sent < len(self._hello) and mask & WRITABLE:
                self._send_hello(attempt)
            if mask & (READABLE | HANGUP) and not self._over:
                self._read_answer(attempt, hangup=bool(mask & HANGUP))
        except BlockingIOError:
            return
        except OSError:
            self._failed(attempt)

    def _connected(self, attempt: _Attempt) -> None:
        attempt.connected_at = self._dialer.loop.now
        self._send_hello(attempt)
        if self._candidates:
            self._dialer.staggers.stop(self)
            self._dialer.patience.start(self, now=self._dialer.loop.now)
        self._caller.dial_connected()

    def _send_hello(self, attempt: _Attempt) -> None:
        attempt.sent += attempt.sock.send(self._hello[attempt.sent :])

    def _read_answer(self, attempt: _Attempt, *, hangup: bool) -> None:
        data = attempt.sock.recv(_ANSWER_SIZE)
        if not data:
            raise ConnectionResetError
        self._attempts.remove(attempt)
        now, health = self._dialer.loop.now, self._dialer.health
        assert attempt.connected_at is not None
        health.worked(attempt.endpoint, seconds=now - attempt.connected_at)
        late = now - self._dialer.config.answer_patience
        for loser in self._attempts:
            if loser.connected_at is not None and loser.connected_at <= late:
                self._dialer.counters.attempts_failed += 1
                health.overtaken(loser.endpoint, now=now)
        self.abandon()
        self._caller.dial_won(attempt.sock, data, more=hangup or len(data) == _ANSWER_SIZE)

    def _failed(self, attempt: _Attempt) -> None:
        self._drop(attempt)
        if attempt.connected_at is None:
            self._blame(attempt.endpoint)
        else:
            self._dialer.counters.attempts_failed += 1
            self._lost_answers += 1
            if self._lost_answers == _LOST_ANSWERS_MAX:
                self._candidates.clear()
        self.widen()

    def _drop(self, attempt: _Attempt) -> None:
        self._attempts.remove(attempt)
        self._dialer.loop.retire(attempt.sock)

    def _blame(self, endpoint: Endpoint) -> None:
        self._dialer.counters.attempts_failed += 1
        self._dialer.health.failed(endpoint, now=self._dialer.loop.now)
