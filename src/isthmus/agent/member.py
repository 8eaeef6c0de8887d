"""Our member of the storage cluster, as far as it is there before the agent is.

etcd takes longer to be ready than all other parts of a server together. A member that has worked
before, and that nothing has to be asked about, is therefore started before the rest of the agent
is even loaded; this module loads little itself.
"""

import logging
from typing import Final

from isthmus.agent.node_id import kept_node_id
from isthmus.agent.storage_files import CLUSTER_FILE, RECOVER_FILE, Cluster, StorageNotes
from isthmus.config.model import AgentConfig
from isthmus.engine.etcd_access import MemberFiles
from isthmus.engine.etcd_process import EtcdProcess, EtcdProcessConfig
from isthmus.engine.folder_lock import FolderLock
from isthmus.net.files import LocalFiles

logger = logging.getLogger(__name__)

FOLDER: Final = "storage"
"""Folder in the data directory of a server whose data etcd keeps."""


class LocalMember:
    """The folder of our member, which is ours alone while we live, and its process.

    Attributes:
        folder: Where its data, its certificates and what we note of it are.
        process: The member.

    Args:
        config: The agent's.
        node_id: Our server id.
    """

    def __init__(self, config: AgentConfig, node_id: str) -> None:
        assert config.data_dir is not None
        storage = config.storage
        self.folder = config.data_dir / FOLDER
        self.process = EtcdProcess(
            EtcdProcessConfig(
                binary=storage.etcd_binary,
                directory=self.folder / "etcd",
                files=MemberFiles(self.folder / "certificates"),
                name=node_id,
                peer_host=config.addresses.advertise,
                peer_port=storage.peer_port,
                client_port=storage.client_port,
                heartbeat=storage.heartbeat_interval,
                election=storage.election_timeout,
                quota=storage.quota_bytes,
            )
        )
        self._lock = FolderLock(self.folder)
        self._taken = False

    def take(self) -> None:
        """Keep other processes away from the folder, which is made when missing. Idempotent.

        Raises:
            Locked: Another process has it: its etcd must not be taken for a leftover.
        """
        if not self._taken:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.take()
            self._taken = True

    async def start_if_known(self) -> None:
        """Start the member, if it has worked before and is where the others know it to be.

        Raises:
            EngineUnavailable: There is no fit etcd to run.
            Unavailable: A note of ours cannot be read; the text names it.
        """
        notes, config = StorageNotes(LocalFiles(), self.folder), self.process.config
        noted = await notes.read(CLUSTER_FILE)
        if noted is None or not self.process.has_data or await notes.read(RECOVER_FILE):
            return
        cluster = Cluster.of(noted)
        if cluster.started and cluster.peer_url(config.name) == config.peer_url:
            await self.process.start(cluster.formation)

    async def close(self) -> None:
        """Stop the member and let go of the folder. Idempotent."""
        await self.process.stop()
        self._lock.release()
        self._taken = False


async def start_known_member(config: AgentConfig) -> LocalMember | None:
    """Begin what takes longest when a server starts again; None where there is nothing to begin.

    Returns:
        The member, whose folder is ours now; started if it could be.

    Raises:
        EngineError: As of `LocalMember`; nothing is left running.
    """
    if not config.server or config.storage_engine != "etcd" or config.storage.endpoints:
        return None
    own_id = kept_node_id(config)
    if config.data_dir is None or not own_id or not (config.data_dir / FOLDER).exists():
        return None
    member = LocalMember(config, own_id)
    member.take()
    try:
        await member.start_if_known()
    except BaseException:
        await member.close()
        raise
    return member
