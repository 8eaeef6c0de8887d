"""Moving a datacenter's data from one engine to another, while its one server is stopped.

The tables go whole, as by restoring a snapshot; the index goes on from where it was, and the old
files stay under another name. Source: design of storage, §9.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from isthmus.agent import settings
from isthmus.agent.member import FOLDER
from isthmus.agent.node_id import node_id
from isthmus.agent.platform import Platform
from isthmus.agent.storage_files import RECOVER_FILE
from isthmus.config.model import AgentConfig
from isthmus.engine.folder_lock import FolderLock
from isthmus.errors import InvalidRequest, Unavailable
from isthmus.net.client import ServerTarget
from isthmus.server.loading import load_tables
from isthmus.server.restoring import fill_engine
from isthmus.store.engine import Engine, LeaderInfo, Locked
from isthmus.store.store import Store

FORM_TIMEOUT: Final = 30.0
"""Seconds that a server's etcd may take to work alone."""
_BATCH_ID_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was moved.

    Attributes:
        rows: Number of rows by table.
        index: The index that the new storage stands at.
        kept: Where the old files are; None when they are not ours to move.
    """

    rows: dict[str, int]
    index: int
    kept: Path | None


class MigrationRefused(InvalidRequest):
    """The data cannot be moved like this; nothing changed."""


async def migrate(config: AgentConfig, to: str, platform: Platform) -> Migrated:
    """Move the data of a stopped server.

    Args:
        config: The agent's; which engine it names does not matter.
        to: The engine to move to: ``sqlite`` or ``etcd``.
        platform: Clock, chance, disk.

    Raises:
        MigrationRefused: There is nothing to move, or data where it would go, or other servers
            hold the data too. Nothing changed.
        EngineError: An engine failed; the old data is where it was.
        Unavailable: etcd could not be formed.
    """
    if config.data_dir is None:
        raise MigrationRefused("an agent with -dev keeps nothing that could be moved")
    places = {"sqlite": config.data_dir / "store", "etcd": config.data_dir / FOLDER}
    source, target = ("sqlite", "etcd") if to == "etcd" else ("etcd", "sqlite")
    external = bool(config.storage.endpoints)
    if not places[source].exists() and not (source == "etcd" and external):
        raise MigrationRefused(f"there is no data of {source} in {config.data_dir}")
    if places[target].exists() and not (target == "etcd" and external):
        raise MigrationRefused(
            f"there is data of {target} already: {places[target]}; move that folder away first"
        )
    if source == "sqlite":  # Before an etcd is formed beside what a running agent serves from.
        lock = FolderLock(places[source])
        lock.take()
        lock.release()
    async with contextlib.AsyncExitStack() as stack:
        old = await stack.enter_async_context(_engine(source, config, platform))
        new = await stack.enter_async_context(_engine(target, config, platform))
        rows, index = await copy(old, new, platform.entropy)
    kept = None
    if not (source == "etcd" and external):
        stamp = int(platform.wall().timestamp())
        kept = places[source].rename(places[source].with_name(f"{source}.migrated-{stamp}"))
    return Migrated(rows, index, kept)


async def copy(
    source: Engine, target: Engine, entropy: Callable[[int], bytes]
) -> tuple[dict[str, int], int]:
    """Copy all tables from an engine into an empty one; both are closed before and open after.

    Returns:
        Number of rows by table, and the index of the copy.

    Raises:
        InvalidRequest: The target is not empty.
        EngineError: One of them failed.
    """
    head = await source.open()
    tables = Store()
    await load_tables(tables, source, head)
    rows = {name: count for name, count in tables.row_counts().items() if count}
    filled = await fill_engine(
        target,
        tables,
        index=head.index,
        info=LeaderInfo("migration", "migration", ""),
        batch_id=lambda: entropy(_BATCH_ID_SIZE),
    )
    for left in filled.left:
        await filled.restoring.remove([left])
    await target.resign(filled.lead)
    return rows, filled.store.index


@contextlib.asynccontextmanager
async def _engine(kind: str, config: AgentConfig, platform: Platform) -> AsyncIterator[Engine]:
    """An engine over the data of a configuration, closed at the end; not open yet."""
    if kind == "sqlite":
        engine = settings.engine(config, entropy=platform.entropy, wall=platform.wall)
        try:
            yield engine
        finally:
            await engine.close()
        return
    from isthmus.agent import etcd

    if config.storage.endpoints:
        external = etcd.external_engine(config, platform)
        try:
            yield external
        finally:
            await external.close()
        return
    alone = dataclasses.replace(config, bootstrap=True, bootstrap_expect=0)
    storage = etcd.ManagedStorage(
        alone,
        platform,
        node_id=node_id(config, platform.entropy),
        caller=_Nobody(),
        lan=lambda: (),
        rng=Random(int.from_bytes(platform.entropy(16), "big")),
    )
    try:
        await storage.open()
        try:
            async with asyncio.timeout(FORM_TIMEOUT):
                await storage.keeper.run()
        except TimeoutError:
            raise MigrationRefused(
                f"etcd has had no leader for {FORM_TIMEOUT:g} s: other servers keep the data too; "
                "start them, and have all but this one leave first (isthmus leave); if they are "
                "lost for good, begin with: isthmus operator storage recover"
            ) from None
        members = await storage.cluster.members()
        if len(members) > 1:
            raise MigrationRefused(
                f"{len(members)} servers keep the data; have all but this one leave first "
                "(isthmus leave), then stop it and try again"
            )
        yield storage.engine
    finally:
        await storage.engine.close()
        await storage.close()


def recover(config: AgentConfig) -> Path:
    """Have a stopped server go on alone at its next start, with the data that it has.

    For a datacenter that has lost the majority of its servers for good. What only the lost ones
    had is lost; the other survivors must begin with an empty storage folder, and join.

    Returns:
        The note that tells the agent.

    Raises:
        MigrationRefused: This server keeps no data in an etcd of its own, or it runs.
    """
    folder = None if config.data_dir is None else config.data_dir / FOLDER
    if folder is None or not (folder / "etcd").exists():
        raise MigrationRefused(f"there is no data of etcd in {config.data_dir}")
    lock = FolderLock(folder)
    try:
        lock.take()
    except Locked as error:
        raise MigrationRefused(f"{error}: stop the agent first") from error
    note = folder / RECOVER_FILE
    note.write_text('{"wanted": true}')
    lock.release()
    return note


class _Nobody:
    """Calls to other servers, of which there are none."""

    async def call(self, target: ServerTarget, method: str, *_: object, **__: object) -> Any:
        """Refuse."""
        raise Unavailable("a migration runs on one server")


def describe(done: Migrated) -> Sequence[str]:
    """Lines that say what was done."""
    lines = [f"{name}: {count} rows" for name, count in sorted(done.rows.items())]
    lines.append(f"index: {done.index}")
    if done.kept is not None:
        lines.append(f"the old files are kept in {done.kept}")
    return lines
