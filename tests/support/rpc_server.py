"""A server port on loopback with a dispatcher that tests steer."""

import asyncio
from dataclasses import dataclass, field

from isthmus.errors import RequestError
from isthmus.model.methods import METHODS
from isthmus.model.query import Empty
from isthmus.model.record import Record
from isthmus.net.listener import PeerInfo


@dataclass
class SteeredDispatcher:
    """Answers ``Status.Leader`` with `leader`; holds ``Status.Peers`` until `release` is set."""

    leader: object = "127.0.0.1:8300"
    release: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[tuple[str, Record]] = field(default_factory=list)
    peers: list[PeerInfo] = field(default_factory=list)
    failure: Exception | None = None

    def request_type(self, method: str) -> type[Record]:
        if method not in METHODS:
            raise RequestError(f"rpc: can't find method {method}")
        return METHODS[method].request

    async def call(self, method: str, request: Record, peer: PeerInfo) -> object:
        self.calls.append((method, request))
        self.peers.append(peer)
        if self.failure is not None:
            raise self.failure
        if method == "Status.Leader":
            return self.leader
        if method == "Status.Peers":
            self.held.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return ("127.0.0.1:8300",)
        return Empty()
