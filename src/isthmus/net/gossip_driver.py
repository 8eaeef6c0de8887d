"""Runs one gossip pool: carries out what its core wants, and hands events to the main loop.

Used by `isthmus.net.gossip`, on the gossip thread's loop only.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from ipaddress import ip_address
from random import Random
from typing import Any, Final, TypeVar

from isthmus.errors import InvalidNodeName, NotFound, ProtocolError, Unavailable
from isthmus.gossip.conflict import ConflictLost
from isthmus.gossip.coordinate import PoolCoordinates
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.keys import KeyOperation, KeyResult, KeysAnswered, StoreKeyring
from isthmus.gossip.outputs import (
    CloseStream,
    JoinFinished,
    OpenStream,
    SendPacket,
    SendStream,
    Warned,
)
from isthmus.gossip.queries import QueryResult, Question
from isthmus.gossip.roster import Member, MemberEvent
from isthmus.gossip.serf import (
    LeaveFinished,
    QueryFinished,
    Serf,
    SerfOutput,
)
from isthmus.gossip.snapshot import Snapshot
from isthmus.gossip.streams import JoinTarget
from isthmus.model.reminders import Reminders
from isthmus.names import split_host_port
from isthmus.net.files import Files, LocalFiles
from isthmus.net.gateways import WanCarrier
from isthmus.net.gossip_connections import PoolConnections
from isthmus.net.gossip_pool import JoinFailed, Mailbox, PoolConfig, PoolEvent
from isthmus.net.gossip_protocols import DatagramProtocol
from isthmus.net.keyring_file import KeyringFile
from isthmus.net.network import Inbound, Listening, Network
from isthmus.net.snapshot_file import SnapshotFile
from isthmus.net.tasks import TaskScope
from isthmus.wire.serf import Query

T = TypeVar("T")

CARRIED_PACKETS_MAX: Final = 256
"""Packets on their way into other datacenters; further ones count as lost."""
RESOLVE_TIMEOUT: Final = 10.0
LEAVE_GRACE: Final = 2.0
"""Seconds that `leave` may take beyond its own limits."""
FILES_GRACE: Final = 5.0
"""Seconds that a closing pool waits for the disk."""
JOIN_ADDRESSES_MAX: Final = 1024
BIND_ATTEMPTS: Final = 16
"""Port 0: attempts to find one that is free for both TCP and UDP."""
REPEATED_WARNING_INTERVAL: Final = 60.0
"""The same warning is logged once in this many seconds."""
REMEMBERED_WARNINGS_MAX: Final = 256

_logger = logging.getLogger(__name__)


class PoolDriver:
    """Runs one serf core; lives on the gossip loop."""

    def __init__(
        self,
        config: PoolConfig,
        network: Network,
        mailbox: Mailbox,
        *,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        files: Files | None = None,
    ) -> None:
        self.config, self._network, self._mailbox = config, network, mailbox
        self._entropy = entropy
        self._rng = Random(int.from_bytes(entropy(16), "big"))
        self._keyring = Keyring(config.keys)
        files = files or LocalFiles()
        path = config.keyring_file
        self._keyring_file = None if path is None else KeyringFile(path, files)
        path = config.snapshot_file
        self._snapshot_file = None if path is None else SnapshotFile(path, files)
        self._stores: set[asyncio.Task[None]] = set()
        """Writing of files: not to be cancelled."""
        self._loop: asyncio.AbstractEventLoop
        self._core: Serf
        self._scope: TaskScope
        self._listening: Listening | None = None
        self._datagrams: asyncio.DatagramTransport | None = None
        self._socket = DatagramProtocol(self.receive_packet, self.receive_refusal)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._connections: PoolConnections | None = None
        self._carried = 0
        self._joins: dict[int, asyncio.Future[JoinFinished]] = {}
        self._asked: dict[int, asyncio.Future[QueryFinished | KeysAnswered]] = {}
        self._left: asyncio.Event
        self._ended: asyncio.Event
        self._closing: asyncio.Task[None] | None = None
        self._released: asyncio.Event
        self._warnings = Reminders(REPEATED_WARNING_INTERVAL, size_max=REMEMBERED_WARNINGS_MAX)
        self._counters: dict[str, int] = {}
        self._closed = False
        self.address: tuple[str, int] = ("", 0)
        self.members: tuple[Member, ...] = ()
        self.local_member: Member

    @property
    def coordinates(self) -> PoolCoordinates:
        """See `Pool.coordinate` and `Pool.coordinates`."""
        return self._core.coordinates

    # --- Opening and closing --------------------------------------------------------------------

    async def open(self) -> None:
        """Listen, then start the core."""
        self._loop = asyncio.get_running_loop()
        self._scope = TaskScope()
        self._left, self._released = asyncio.Event(), asyncio.Event()
        self._ended = asyncio.Event()
        config = self.config
        if self._keyring_file is not None:
            self._keyring = Keyring(await self._keyring_file.load(config.keys))
        snapshot = Snapshot()
        if self._snapshot_file is not None:
            rejoin = config.rejoin_after_leave
            snapshot = await self._snapshot_file.load(rejoin_after_leave=rejoin)
        await self._bind()
        host = config.advertise_host or self.address[0]
        try:
            self._core = Serf(
                name=config.name,
                address=(host, config.advertise_port or self.address[1]),
                tags=config.tags,
                config=config.gossip,
                keyring=self._keyring,
                merge_check=config.merge_check,
                rng=self._rng,
                entropy=self._entropy,
                now=self._loop.time(),
                route_by_name=config.route_by_name,
                is_remote=self._carries,
                resolve_conflicts=config.resolve_conflicts,
            )
        except BaseException:
            await self._unbind()
            raise
        self._connections = PoolConnections(
            self._core,
            self._network,
            config.carrier,
            self._scope,
            stream_timeout=config.gossip.stream_timeout,
            receive_packet=self._receive_carried,
            count=self._count,
            flush=self.flush,
        )
        self._resume(snapshot)
        self.flush()

    def _resume(self, snapshot: Snapshot) -> None:
        """Go on where an earlier process of ours stopped."""
        if self._snapshot_file is None:
            return
        self._core.resume(
            clock=snapshot.clock,
            event_clock=snapshot.event_clock,
            query_clock=snapshot.query_clock,
        )
        self._keep(self._snapshot_file.run())
        addresses = snapshot.join_addresses(self.config.name, self._rng)
        if addresses:
            self._scope.spawn(self._rejoin(addresses))

    async def _rejoin(self, addresses: Sequence[str]) -> None:
        """Try members from before until one lets us in, round after round."""
        while not self._core.memberlist.has_live_peers():
            self._released.clear()
            for address in [] if self._core.memberlist.held else addresses:
                try:
                    await self.join([address], ignore_old=False)
                except Unavailable as error:
                    if self._closed:
                        return
                    _logger.debug("rejoin: %s", error)
                else:
                    _logger.info("re-joined through %s", address, extra={"pool": self.config.name})
                    return
            if not self._core.memberlist.held:
                self._warn("Failed to re-join any previously known node; trying again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.gossip.reconnect_interval):
                    await self._released.wait()

    def _keep(self, writing: Coroutine[Any, Any, None]) -> None:
        """Run what `close` has to wait for."""
        task = self._scope.spawn(writing)
        self._stores.add(task)
        task.add_done_callback(self._stores.discard)

    async def _bind(self) -> None:
        """Open TCP and UDP on one port."""
        host, port = self.config.bind_host, self.config.bind_port
        for attempt in range(BIND_ATTEMPTS):
            self._listening = await self._network.listen(host, port, self._accept)
            self.address = (host, self._listening.address[1])
            try:
                self._datagrams = await self._network.datagram(
                    lambda: self._socket, host, self.address[1]
                )
            except OSError:
                await self._unbind()
                if port or attempt == BIND_ATTEMPTS - 1:
                    raise
            else:
                return

    async def _unbind(self) -> None:
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._listening is not None:
            await self._listening.close()
            self._listening = None

    async def close(self) -> None:
        """Close everything at once."""
        if self._closed:
            await self._ended.wait()
            return
        self._closed = True
        if self._connections is not None:
            self._connections.stop()
        try:
            await self._close()
        finally:
            self._ended.set()

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._unbind()
        if self._snapshot_file is not None:
            self._snapshot_file.stop()
        if self._stores:
            await asyncio.wait(self._stores, timeout=FILES_GRACE)
        await self._scope.close()
        if self._connections is not None:
            self._connections.abort()
        for waiting in self._joins.values():
            if not waiting.done():
                waiting.set_exception(JoinFailed(["the pool was closed"]))
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(Unavailable("the pool was closed"))
        self._left.set()
        await asyncio.sleep(0)  # Lets the transports finish their closing.

    # --- Calls ----------------------------------------------------------------------------------

    async def join(self, addresses: Sequence[str], *, ignore_old: bool) -> int:
        """See `Pool.join`."""
        self._check_open()
        if not addresses:
            return 0
        targets: list[JoinTarget] = []
        errors: list[str] = []
        for address in addresses[:JOIN_ADDRESSES_MAX]:
            try:
                targets += await self._resolve(address)
            except (OSError, ValueError) as error:
                errors.append(f"Failed to resolve {address}: {error}")
        self._check_open()
        contacted = 0
        if targets:
            number = self._core.join(targets, ignore_old=ignore_old, now=self._loop.time())
            waiting: asyncio.Future[JoinFinished] = self._loop.create_future()
            self._joins[number] = waiting
            self.flush()
            try:
                finished = await waiting
            finally:
                del self._joins[number]
            contacted = finished.contacted
            errors += finished.errors
        if not contacted:
            raise JoinFailed(errors)
        return contacted

    async def _resolve(self, address: str) -> list[JoinTarget]:
        """The addresses that ``[name/]host[:port]`` stands for."""
        node, slash, place = address.rpartition("/")
        if slash and not node:
            raise ValueError("empty node name provided")
        try:
            host, port = split_host_port(place)
        except ValueError:
            host, port = place.strip("[]"), self.address[1]
        with contextlib.suppress(ValueError):
            return [JoinTarget(node, (str(ip_address(host)), port))]  # Needs no resolver.
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        hosts = dict.fromkeys(str(entry[4][0]) for entry in found)
        return [JoinTarget(node, (each, port)) for each in hosts]

    async def leave(self) -> None:
        """See `Pool.leave`."""
        self._check_open()
        gossip = self.config.gossip
        limit = 2 * gossip.broadcast_timeout + gossip.leave_propagate_delay + LEAVE_GRACE
        if self._snapshot_file is not None:
            self._snapshot_file.leave()
        self._core.leave(now=self._loop.time())
        self.flush()
        try:
            async with asyncio.timeout(limit):
                await self._left.wait()
        except TimeoutError:
            _logger.warning("leaving took too long", extra={"pool": self.config.name})

    async def force_leave(self, name: str, prune: bool) -> None:
        """See `Pool.force_leave`."""
        self._check_open()
        if all(member.name != name for member in self.members):
            raise NotFound(f"agent: No node found with name '{name}'", status=500)
        self._core.force_leave(name, prune=prune, now=self._loop.time())
        self.flush()

    async def update_tags(self, tags: Mapping[str, str]) -> None:
        """See `Pool.update_tags`."""
        self._check_open()
        self._core.update_tags(tags, now=self._loop.time())
        self.flush()

    async def user_event(self, name: str, payload: bytes, coalesce: bool) -> int:
        """See `Pool.user_event`."""
        self._check_open()
        ltime = self._core.user_event(name, payload, coalesce=coalesce)
        self.flush()
        return ltime

    async def query(self, question: Question) -> QueryResult:
        """See `Pool.query`."""
        self._check_open()
        finished = await self._ask(self._core.query(question, now=self._loop.time()))
        assert isinstance(finished, QueryFinished)
        return finished.result

    async def keys(self, operation: KeyOperation, key: bytes, relay_factor: int) -> KeyResult:
        """See `Pool.keys`."""
        self._check_open()
        number = self._core.change_keys(
            operation, key, relay_factor=relay_factor, now=self._loop.time()
        )
        answered = await self._ask(number)
        assert isinstance(answered, KeysAnswered)
        return answered.result

    async def _ask(self, number: int) -> QueryFinished | KeysAnswered:
        """Wait for the result of a query that was just asked."""
        waiting: asyncio.Future[QueryFinished | KeysAnswered] = self._loop.create_future()
        self._asked[number] = waiting
        self.flush()
        try:
            return await waiting
        finally:
            del self._asked[number]

    async def respond(self, query: Query, payload: bytes) -> None:
        """See `Pool.respond`."""
        self._check_open()
        self._core.respond(query, payload, now=self._loop.time())
        self.flush()

    async def stats(self) -> dict[str, str]:
        """See `Pool.stats`."""
        self._check_open()
        own = {name: str(value) for name, value in sorted(self._counters.items())}
        return self._core.stats() | own | {"events_dropped": str(self._mailbox.dropped)}

    async def acks(self) -> dict[str, float]:
        """See `Pool.acks`."""
        self._check_open()
        now = self._loop.time()
        return {name: now - at for name, at in self._core.memberlist.acked_at.items()}

    async def conflicts(self) -> dict[str, tuple[str, float]]:
        """See `Pool.conflicts`."""
        self._check_open()
        now = self._loop.time()
        return {name: (host, now - at) for name, (host, at) in self._core.conflicts.items()}

    def hold(self) -> None:
        """See `Pool.hold`."""
        if not self._closed:
            self._core.hold()
            self.flush()

    def release(self) -> None:
        """See `Pool.release`."""
        if not self._closed:
            self._released.set()
            self._core.release(now=self._loop.time())
            self.flush()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the pool is closed")

    # --- The core's outputs ---------------------------------------------------------------------

    def flush(self) -> None:
        """Carry out the core's outputs, show its members, sleep until its next timer."""
        if self._closed:
            return
        outputs = self._core.take_outputs()
        while outputs:
            for output in outputs:
                self._carry_out(output)
            outputs = self._core.take_outputs()
        self._show_members()
        self._note_clocks()
        due = self._core.next_timer()
        if self._timer is None or due != self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._due = due
            self._timer = self._loop.call_at(due, self._on_timer)

    def _carry_out(self, output: SerfOutput) -> None:
        match output:
            case SendPacket():
                self._send(output)
            case OpenStream():
                self._connected.open(output)
            case SendStream(number, data):
                self._connected.write(number, data)
            case CloseStream(number):
                self._connected.close(number)
            case JoinFinished():
                waiting = self._joins.get(output.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(output)
            case QueryFinished() | KeysAnswered():
                asked = self._asked.get(output.id)
                if asked is not None and not asked.done():
                    asked.set_result(output)
            case StoreKeyring():
                self._store_keyring(output)
            case Warned(text):
                self._warn(text)
            case ConflictLost():
                self._publish(output)
                # Not in the scope, which ends with the pool.
                self._closing = self._loop.create_task(self.close())
            case LeaveFinished():
                self._left.set()
                self._publish(output)
            case _:
                self._publish(output)

    def _store_keyring(self, output: StoreKeyring) -> None:
        if self._keyring_file is None:
            self._core.keyring_stored(output.id, now=self._loop.time())
            return
        self._keep(self._save_keyring(self._keyring_file, output))

    async def _save_keyring(self, file: KeyringFile, output: StoreKeyring) -> None:
        problem = ""
        try:
            await file.save(output.keys)
        except OSError as error:
            problem = f"the keyring file was not written: {error.strerror or error}"
            self._warn(f"{problem}: the change of its keys ends with this process")
        self._core.keyring_stored(output.id, problem, now=self._loop.time())
        self.flush()

    def _publish(self, event: PoolEvent) -> None:
        self._show_members()
        if self._snapshot_file is not None and isinstance(event, MemberEvent):
            self._snapshot_file.receive(event)
        self._mailbox.put(event)

    def _note_clocks(self) -> None:
        if self._snapshot_file is not None:
            core = self._core
            self._snapshot_file.note_clocks(
                clock=core.clock.time - 1,
                event_clock=core.event_clock.time - 1,
                query_clock=core.query_clock.time - 1,
            )

    def _show_members(self) -> None:
        self.members = self._core.members()
        self.local_member = self._core.local_member()

    def _on_timer(self) -> None:
        self._timer = None
        self._core.handle_timer(now=self._loop.time())
        self.flush()

    def _warn(self, text: str) -> None:
        """Log a warning, unless the same was logged lately, of whatever peer."""
        if self._warnings.due(text.partition(" from=")[0], now=self._loop.time()):
            _logger.warning("%s", text, extra={"pool": self.config.name})
        else:
            self._count("warnings_repeated")

    # --- Packets --------------------------------------------------------------------------------

    def receive_packet(self, data: bytes, source: tuple[str, int] | None) -> None:
        """Hand a packet to the core."""
        if not self._closed:
            self._core.receive_packet(data, source=source, now=self._loop.time())
            self.flush()

    def receive_refusal(self, address: tuple[str, int]) -> None:
        """A host said that nobody listens where we sent a packet."""
        if not self._closed:
            self._core.receive_refusal(address, now=self._loop.time())
            self.flush()

    def _carries(self, name: str) -> bool:
        try:
            return self.config.carrier is not None and self.config.carrier.carries(name)
        except InvalidNodeName:
            return False

    def _send(self, packet: SendPacket) -> None:
        carrier = self.config.carrier
        if carrier is not None:
            try:
                carried = carrier.carries(packet.node)
            except InvalidNodeName:
                self._fail_packet(packet, "packets_invalid_name")
                return
            if carried:
                if self._carried >= CARRIED_PACKETS_MAX:
                    self._fail_packet(packet, "packets_not_carried")
                else:
                    self._carried += 1
                    self._scope.spawn(self._carry(carrier, packet))
                return
        if self._datagrams is None or self._socket.full:
            self._fail_packet(packet, "packets_unsent")
            return
        self._socket.failed = False
        self._datagrams.sendto(packet.data, packet.address)
        if self._socket.failed:
            self._fail_packet(packet, "packets_unsent")

    def _fail_packet(self, packet: SendPacket, counter: str) -> None:
        self._count(counter)
        self._core.packet_failed(packet.id, now=self._loop.time())

    async def _carry(self, carrier: WanCarrier, packet: SendPacket) -> None:
        """Send into another datacenter; whatever keeps it from going out makes its ping a lost one.

        Otherwise a member behind a gateway that ends connections oddly would never be suspected
        (protocol/gossip.md §16).
        """
        sent = False
        try:
            await carrier.send_packet(packet.node, packet.data)
            sent = True
        except (Unavailable, InvalidNodeName, ProtocolError, OSError, EOFError) as error:
            _logger.debug("packet to %s not sent: %s", packet.node, error)
        finally:
            self._carried -= 1
            if not sent and not self._closed:
                self._fail_packet(packet, "packets_not_carried")
                self.flush()

    # --- Connections that others open -----------------------------------------------------------

    async def _accept(self, inbound: Inbound) -> None:
        if self._connections is None:
            inbound.close()  # We listen, but the core is not made yet.
        else:
            await self._connections.serve(inbound, tls=None)

    def accept_stream(self, inbound: Inbound) -> None:
        """See `Pool.accept_stream`."""
        self._connected.accept_stream(inbound)

    def accept_packets(self, inbound: Inbound) -> None:
        """See `Pool.accept_packets`."""
        self._connected.accept_packets(inbound)

    @property
    def _connected(self) -> PoolConnections:
        assert self._connections is not None  # Since `open`.
        return self._connections

    def _receive_carried(self, packet: bytes) -> None:
        self.receive_packet(packet, None)

    def _count(self, name: str) -> None:
        self._counters[name] = self._counters.get(name, 0) + 1
