"""What a server notes on its disk of the storage cluster that it forms, or is in.

Source: `agent.storage`, which says what each file is for.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isthmus.engine.etcd_process import Formation
from isthmus.errors import Unavailable
from isthmus.model.storage import StorageMember
from isthmus.net.files import Files
from isthmus.server.formation import Promise, Promises

PROMISE_FILE: Final = "promise.json"
PLAN_FILE: Final = "plan.json"
CLUSTER_FILE: Final = "cluster.json"
RECOVER_FILE: Final = "recover.json"
"""An operator wants our member to go on alone at its next start."""
_FILE_SIZE_MAX: Final = 1024 * 1024


class StorageNotes:
    """Small JSON files; an empty object is as good as none.

    Args:
        files: Reads and writes them.
        directory: Their folder; made when missing.
    """

    def __init__(self, files: Files, directory: Path) -> None:
        self._files, self._directory = files, directory

    async def read(self, name: str) -> dict[str, Any] | None:
        """What a file says; None when it says nothing.

        Raises:
            Unavailable: It is damaged; the text names it.
        """
        path = self._directory / name
        data = await self._files.read(path, size_max=_FILE_SIZE_MAX)
        if data is None:
            return None
        try:
            found = json.loads(data)
        except ValueError as error:
            raise Unavailable(
                f"{path} is damaged ({error}): restore it, or remove the folder to have this "
                "server join the other ones anew"
            ) from error
        assert isinstance(found, dict)
        return found or None

    async def write(self, name: str, value: dict[str, Any]) -> None:
        """Replace a file; what it says is on the disk on return."""
        path = self._directory / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._files.replace(path, json.dumps(value, indent=1).encode())


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster that our member is in, as it was when it entered.

    Attributes:
        token: Its name.
        members: Everyone in it.
        new: Whether it was formed then.
        started: Whether our member has worked in it.
    """

    token: str
    members: tuple[StorageMember, ...]
    new: bool
    started: bool = False

    @property
    def formation(self) -> Formation:
        """What our member is started into."""
        return Formation(
            members={member.server_id: member.peer_url for member in self.members},
            token=self.token,
            new=self.new,
        )

    def peer_url(self, server_id: str) -> str | None:
        """Where the cluster knows a member to be; None: it knew none of that name."""
        return next((one.peer_url for one in self.members if one.server_id == server_id), None)

    def as_dict(self) -> dict[str, Any]:
        """As its file has it."""
        return {
            "token": self.token,
            "members": [as_dict(member) for member in self.members],
            "new": self.new,
            "started": self.started,
        }

    @classmethod
    def of(cls, found: dict[str, Any]) -> "Cluster":
        """From its file."""
        members = tuple(StorageMember(**member) for member in found["members"])
        return cls(found["token"], members, found["new"], found.get("started", False))


def promises_as_dict(promises: Promises) -> dict[str, Any]:
    """As their file has them; empty when there is none."""
    if not promises.held:
        return {}
    return {
        "promises": [
            {
                "token": promise.token,
                "coordinator": promise.coordinator,
                "made_at": promise.made_at,
                "members": list(promise.members),
            }
            for promise in promises.held
        ]
    }


def promises_of(found: dict[str, Any]) -> Promises:
    """From their file."""
    return Promises(
        tuple(
            Promise(one["token"], one["coordinator"], one["made_at"], tuple(one["members"]))
            for one in found.get("promises", ())
        )
    )


def as_dict(member: StorageMember) -> dict[str, str]:
    """A member as files have it."""
    return {"server_id": member.server_id, "node": member.node, "peer_url": member.peer_url}


def as_text(data: bytes) -> str:
    """Bytes as files have them."""
    return base64.b64encode(data).decode()


def as_data(text: str) -> bytes:
    """Undo `as_text`."""
    return base64.b64decode(text)
