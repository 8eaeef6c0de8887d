"""Registrations over HTTP and states of TTL checks, kept on disk over a restart.

A service with its checks is one file, and so is a check that was registered by itself, so that
a damaged file costs nothing else. Writes are batched: all that waits goes to the disk together,
several files at a time, and who registered is answered when it is there.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from isthmus.errors import MalformedPacket, RequestError
from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.record import Record
from isthmus.net.files import change_files, sync_folders
from isthmus.wire import msgpack

logger = logging.getLogger(__name__)

Offload = Callable[..., Awaitable[Any]]

WRITERS_MAX: Final = 4
"""Threads that write a batch."""
_SERVICES, _CHECKS, _STATES = "services", "checks", "checks/state"
_SUFFIX: Final = ".registration"
_STATE_SUFFIX: Final = ".state"


class KeptService(Record, frozen=True, kw_only=True):
    """A service that was registered over HTTP.

    Attributes:
        service: Without checks.
        checks: Those that came with it, with their ids.
        is_sidecar: It came with another service, and goes with it.
    """

    service: ServiceDefinition | None = None
    checks: tuple[CheckDefinition, ...] = ()
    is_sidecar: bool = False


class KeptState(Record, frozen=True, kw_only=True):
    """State of a TTL check.

    Attributes:
        expires: Seconds since 1970; later it counts no more.
    """

    check_id: str = ""
    status: str = ""
    output: str = ""
    expires: int = 0


class Kept:
    """Definitions and states in files under the data directory.

    Args:
        folder: The data directory; None: nothing is kept.
        offload: Runs a function on a thread.
    """

    def __init__(self, folder: Path | None, *, offload: Offload = asyncio.to_thread) -> None:
        self._folder, self._offload = folder, offload
        self._services: dict[str, KeptService] = {}
        self._owners: dict[str, str] = {}  # Services by the checks that are kept with them.
        # Files that are there, or will be, by folder.
        self._files: dict[str, set[str]] = {
            name: set() if folder is None else {path.name for path in (folder / name).glob("*.*")}
            for name in (_SERVICES, _CHECKS, _STATES)
        }
        self._waiting: dict[tuple[str, str], bytes | None] = {}
        self._done: asyncio.Future[None] | None = None  # Of the batch that waits.
        self._written: asyncio.Future[None] | None = None  # Of the one that is being written.
        self._writing: asyncio.Task[None] | None = None

    # Reading -------------------------------------------------------------------------------------

    def services(self) -> Iterator[KeptService]:
        """Services that earlier runs kept; what can not be read is left out, with a warning."""
        for path in self._found(_SERVICES):
            kept = _read(KeptService, path)
            if kept is not None and kept.service is None:
                # Until 0.1 the service stood there bare, with its checks.
                bare = _read(ServiceDefinition, path)
                kept = None if bare is None else KeptService(service=bare)
            if kept is not None and kept.service is not None:
                self._remember(kept.service.id or kept.service.name, kept)
                yield kept

    def checks(self) -> Iterator[CheckDefinition]:
        """Checks that earlier runs kept by themselves, the same way."""
        for path in self._found(_CHECKS):
            definition = _read(CheckDefinition, path)
            if definition is not None:
                yield definition

    def state(self, check_id: str, *, now: float) -> KeptState | None:
        """State of a TTL check, unless it has expired.

        Args:
            check_id: The check.
            now: Seconds since 1970.
        """
        if (
            not self._files[_STATES]
            or (file := _file(_STATES, check_id)) not in self._files[_STATES]
        ):
            return None
        state: KeptState | None = _read(KeptState, self._path(_STATES, file))
        if state is None or state.check_id != check_id or now >= state.expires:
            return None
        return state

    def _found(self, name: str) -> list[Path]:
        return [
            self._path(name, file) for file in sorted(self._files[name]) if file.endswith(_SUFFIX)
        ]

    # Writing -------------------------------------------------------------------------------------

    def keep_service(
        self, service: ServiceDefinition, checks: Iterable[CheckDefinition], *, is_sidecar: bool
    ) -> None:
        """Keep a service from now on, with checks besides those that are kept with it already.

        Args:
            service: Its own checks do not count.
            checks: With their ids.
            is_sidecar: See `KeptService`.
        """
        service_id = service.id or service.name
        known = self._services.get(service_id, KeptService())
        together = {check.check_id: check for check in (*known.checks, *checks)}
        for check_id in together:
            self._put(_CHECKS, check_id, None)  # If it came by itself before.
        kept = KeptService(
            service=msgspec.structs.replace(service, check=None, checks=None),
            checks=tuple(together.values()),
            is_sidecar=is_sidecar,
        )
        self._remember(service_id, kept)
        self._put(_SERVICES, service_id, kept)

    def forget_service(self, service_id: str) -> None:
        """Keep a service and its checks no longer; it need not be there."""
        kept = self._services.pop(service_id, KeptService())
        for check in kept.checks:
            self._owners.pop(check.check_id, None)
        self._put(_SERVICES, service_id, None)

    def keep_check(self, definition: CheckDefinition) -> None:
        """Keep a check by itself from now on."""
        self._take_from_service(definition.check_id)
        self._put(_CHECKS, definition.check_id, definition)

    def forget_definition(self, check_id: str) -> None:
        """Keep a check no longer, but its state; it need not be there."""
        self._take_from_service(check_id)
        self._put(_CHECKS, check_id, None)

    def forget_check(self, check_id: str) -> None:
        """Keep a check and its state no longer; it need not be there."""
        self.forget_definition(check_id)
        self._put(_STATES, check_id, None)

    def keep_state(self, state: KeptState) -> None:
        """Keep the state of a TTL check."""
        self._put(_STATES, state.check_id, state)

    async def saved(self) -> None:
        """Return once all that was kept or forgotten before is on the disk.

        Raises:
            RequestError: It can not be written.
        """
        batch = self._done or self._written
        if batch is not None:
            await asyncio.shield(batch)

    async def close(self) -> None:
        """Write what waits."""
        while self._writing is not None:
            await asyncio.wait({self._writing})

    def _remember(self, service_id: str, kept: KeptService) -> None:
        self._services[service_id] = kept
        self._owners |= {check.check_id: service_id for check in kept.checks}

    def _take_from_service(self, check_id: str) -> None:
        service_id = self._owners.pop(check_id, None)
        kept = None if service_id is None else self._services.get(service_id)
        if service_id is not None and kept is not None:
            checks = tuple(check for check in kept.checks if check.check_id != check_id)
            kept = msgspec.structs.replace(kept, checks=checks)
            self._services[service_id] = kept
            self._put(_SERVICES, service_id, kept)

    def _path(self, kind: str, file: str) -> Path:
        assert self._folder is not None
        return self._folder / kind / file

    def _put(self, kind: str, name: str, record: Record | None) -> None:
        files = self._files[kind]
        if self._folder is None or (record is None and not files):
            return
        file = _file(kind, name)
        if record is not None:
            files.add(file)
        elif file in files:
            files.discard(file)
        else:
            return
        self._waiting[kind, file] = None if record is None else msgpack.encode(record)
        loop = asyncio.get_running_loop()
        if self._done is None:
            self._done = loop.create_future()
            self._done.add_done_callback(lambda done: done.exception())  # Maybe nobody asks.
        if self._writing is None:
            self._writing = loop.create_task(self._write())

    async def _write(self) -> None:
        while self._waiting:
            batch, self._written = self._waiting, self._done
            self._waiting, self._done = {}, None
            assert self._written is not None
            try:
                await self._write_batch(batch)
            except OSError as error:
                logger.error("cannot keep registrations: %s", error)
                text = f"the registration is not kept over a restart: {error}"
                self._written.set_exception(RequestError(text))
            else:
                self._written.set_result(None)
        self._writing = self._written = None

    async def _write_batch(self, batch: Mapping[tuple[str, str], bytes | None]) -> None:
        """Write files; registrations are durable then, states need not be.

        Raises:
            OSError: One can not be written; the others are.
        """
        states = {file: data for file, data in batch.items() if file[0] == _STATES}
        definitions = [pair for pair in batch.items() if pair[0] not in states]
        work = [partial(self._change, states, durable=False)] if states else []
        size = -(-len(definitions) // WRITERS_MAX)
        parts = iter(definitions)
        while part := dict(islice(parts, size)):
            work.append(partial(self._change, part, durable=True))
        results = await asyncio.gather(*map(self._offload, work), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        kinds = {kind for (kind, _), _ in definitions}
        if kinds:
            await self._offload(partial(self._sync, kinds))

    def _change(self, changes: Mapping[tuple[str, str], bytes | None], *, durable: bool) -> None:
        paths = {self._path(*file): data for file, data in changes.items()}
        change_files(paths, durable=durable)

    def _sync(self, kinds: Iterable[str]) -> None:
        """Make names in folders durable; one to which nothing was ever written is not there."""
        assert self._folder is not None
        folders = [self._folder / kind for kind in kinds]
        sync_folders(folder for folder in folders if folder.is_dir())


def _file(kind: str, name: str) -> str:
    suffix = _STATE_SUFFIX if kind == _STATES else _SUFFIX
    return hashlib.sha256(name.encode()).hexdigest() + suffix


def _read(kind: type[Any], path: Path) -> Any:
    """A record from a file; None when there is none that can be used."""
    try:
        return msgpack.decode(kind, path.read_bytes())
    except FileNotFoundError:
        return None  # It was to be removed, or is not written yet.
    except (OSError, MalformedPacket) as error:
        logger.warning("cannot read what was kept in %s: %s", path, error)
        return None
