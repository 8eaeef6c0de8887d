"""Registrations over HTTP and states of TTL checks, kept on disk over a restart.

One file each, so that a damaged one costs nothing else. What is written is batched: all that waits
goes to the disk together, and who registered is answered when it is there.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from isthmus.errors import MalformedPacket, RequestError
from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.record import Record
from isthmus.net.files import change_files
from isthmus.wire import msgpack

logger = logging.getLogger(__name__)

Offload = Callable[..., Awaitable[Any]]

_SUFFIX: Final = ".registration"
_STATE_SUFFIX: Final = ".state"


class KeptService(Record, frozen=True, kw_only=True):
    """A service that was registered over HTTP, without its checks.

    Attributes:
        is_sidecar: It came with another one, and goes with it.
    """

    service: ServiceDefinition | None = None
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
        self._waiting: dict[Path, bytes | None] = {}
        self._done: asyncio.Future[None] | None = None  # Of the batch that waits.
        self._written: asyncio.Future[None] | None = None  # Of the one that is being written.
        self._writing: asyncio.Task[None] | None = None

    # Reading -------------------------------------------------------------------------------------

    def services(self) -> Iterator[KeptService]:
        """Services that earlier runs kept; what can not be read is left out, with a warning."""
        for path, data in self._files("services"):
            try:
                found = msgpack.decode(KeptService, data)
                if found.service is None:  # Until 0.1 it stood there bare, with its checks.
                    bare = msgpack.decode(ServiceDefinition, data)
                    found = KeptService(service=bare)
            except MalformedPacket as error:
                _warn(path, error)
            else:
                yield found

    def checks(self) -> Iterator[CheckDefinition]:
        """Checks that earlier runs kept, the same way."""
        for path, data in self._files("checks"):
            try:
                yield msgpack.decode(CheckDefinition, data)
            except MalformedPacket as error:
                _warn(path, error)

    def state(self, check_id: str, *, now: float) -> KeptState | None:
        """State of a TTL check, unless it has expired.

        Args:
            check_id: The check.
            now: Seconds since 1970.
        """
        if self._folder is None:
            return None
        path = self._path("checks/state", check_id, _STATE_SUFFIX)
        try:
            found = msgpack.decode(KeptState, path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, MalformedPacket) as error:
            _warn(path, error)
            return None
        return found if found.check_id == check_id and now < found.expires else None

    def _files(self, name: str) -> Iterator[tuple[Path, bytes]]:
        folder = None if self._folder is None else self._folder / name
        if folder is None or not folder.is_dir():
            return
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            try:
                yield path, path.read_bytes()
            except OSError as error:
                _warn(path, error)

    # Writing -------------------------------------------------------------------------------------

    def keep_service(self, service_id: str, kept: KeptService) -> None:
        """Keep a service from now on."""
        self._put("services", service_id, _SUFFIX, kept)

    def forget_service(self, service_id: str) -> None:
        """Keep a service no longer; it need not be there."""
        self._put("services", service_id, _SUFFIX, None)

    def keep_check(self, definition: CheckDefinition) -> None:
        """Keep a check from now on."""
        self._put("checks", definition.check_id, _SUFFIX, definition)

    def forget_check(self, check_id: str) -> None:
        """Keep a check and its state no longer; it need not be there."""
        self._put("checks", check_id, _SUFFIX, None)
        self._put("checks/state", check_id, _STATE_SUFFIX, None)

    def keep_state(self, state: KeptState) -> None:
        """Keep the state of a TTL check."""
        self._put("checks/state", state.check_id, _STATE_SUFFIX, state)

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

    def _path(self, kind: str, name: str, suffix: str) -> Path:
        assert self._folder is not None
        return self._folder / kind / (hashlib.sha256(name.encode()).hexdigest() + suffix)

    def _put(self, kind: str, name: str, suffix: str, record: Record | None) -> None:
        if self._folder is None:
            return
        data = None if record is None else msgpack.encode(record)
        self._waiting[self._path(kind, name, suffix)] = data
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
                for states in (False, True):
                    part = {
                        path: data
                        for path, data in batch.items()
                        if (path.suffix == _STATE_SUFFIX) == states
                    }
                    await self._offload(partial(change_files, part, durable=not states))
            except OSError as error:
                logger.error("cannot keep registrations: %s", error)
                self._written.set_exception(
                    RequestError(f"the registration is not kept over a restart: {error}")
                )
            else:
                self._written.set_result(None)
        self._writing = self._written = None


def _warn(path: Path, error: Exception) -> None:
    logger.warning("cannot read the kept registration %s: %s", path, error)
