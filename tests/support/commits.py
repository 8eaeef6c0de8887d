"""What was committed, by whom: the history that a server's etcd has kept."""

import asyncio
import itertools
from dataclasses import dataclass

import msgpack

from isthmus.engine.etcd_access import MemberFiles
from isthmus.engine.etcd_api import MESSAGES, EtcdClient
from isthmus.engine.etcd_process import EtcdProcessConfig
from isthmus.store.keys import INDEX_KEY, LEADER_KEY
from support.datacenter import ServerProcess

READ_TIMEOUT = 30.0


@dataclass
class History:
    """Changes of two keys, oldest first.

    Attributes:
        commits: Revision, index and epoch of each commit.
        claims: Revision, epoch and node of each claim of the leadership.
    """

    commits: list[tuple[int, int, int]]
    claims: list[tuple[int, int, str]]

    def check(self) -> None:
        """Assert that no commit is of a leader that was replaced before, and no index is twice."""
        assert self.commits
        epochs = {epoch for _, epoch, _ in self.claims}
        assert len(epochs) == len(self.claims), "two claims of one epoch"
        for revision, index, epoch in self.commits:
            leading = [claimed for since, claimed, _ in self.claims if since < revision]
            if leading:  # The claim before may be forgotten.
                assert epoch == leading[-1], f"{index} was committed by a leader of before"
        for (_, before, _), (_, after, _) in itertools.pairwise(self.commits):
            assert before < after, "an index was committed again"


def history_of(server: ServerProcess) -> History:
    """Read it from the etcd of a server, which must be well."""
    folder = server.data_dir / "storage"
    config = EtcdProcessConfig(
        directory=folder / "etcd",
        files=MemberFiles(folder / "certificates"),
        name=server.name,
        peer_host=server.host,
        client_port=server.config["storage"]["etcd"]["client_port"],
    )
    return asyncio.run(_read(EtcdClient(config.access)))


async def _read(client: EtcdClient) -> History:
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            request = MESSAGES["RangeRequest"](key=INDEX_KEY)
            last = (await client.call("Range", request)).kvs[0].mod_revision
            start = 1
            while True:
                history = History([], [])
                compacted = await _follow(client, start, last, history)
                if not compacted:
                    return history
                start = compacted
    finally:
        await client.close()


async def _follow(client: EtcdClient, start: int, last: int, history: History) -> int:
    """Fill a history; or the first revision that is kept, if that is later."""
    prefix = b"m/"
    async for answer in client.watch(prefix, b"m0", start):
        if answer.compact_revision:
            return int(answer.compact_revision)
        for event in answer.events:
            pair, key = event.kv, event.kv.key
            if key == INDEX_KEY:
                index, _, epoch, _ = msgpack.unpackb(pair.value)
                history.commits.append((pair.mod_revision, index, epoch))
            elif key == LEADER_KEY and pair.value:
                _, node, _, epoch = msgpack.unpackb(pair.value)
                history.claims.append((pair.mod_revision, epoch, node))
        if history.commits and history.commits[-1][0] >= last:
            return 0
    raise AssertionError("the watch ended")
