"""What the servers of a datacenter say to each other to form a storage cluster, or join it.

Ours; a Consul server answers that it has no such service. Source: design of storage, §10.
"""

from typing import Final

from isthmus.model.record import Record

STATUS: Final = "status"
"""Operation: how far are you?"""
PROMISE: Final = "promise"
"""Operation: will you join the cluster that I form, and no other?"""
CANCEL: Final = "cancel"
"""Operation: you are released from your promise."""
START: Final = "start"
"""Operation: this is the cluster; start your member."""
JOIN: Final = "join"
"""Operation: add me to the cluster that you are in."""
SIGN: Final = "sign"
"""Operation: sign my request; I am a member already."""
MOVE: Final = "move"
"""Operation: I am a member, and have another address now."""

NO_STORAGE: Final = ""
"""State of a server that has no data and has promised nothing."""
PROMISED: Final = "promised"
"""State of a server that waits for a cluster that it promised to join."""
MEMBER: Final = "member"
"""State of a server that is in a cluster."""


class StorageMember(Record, frozen=True, kw_only=True):
    """A member of a storage cluster: its name is the server's id.

    Attributes:
        peer_url: Where the other members dial it.
    """

    server_id: str = ""
    node: str = ""
    peer_url: str = ""


class StorageRequest(Record, frozen=True, kw_only=True):
    """One step of forming or joining.

    Attributes:
        operation: One of those above.
        token: The attempt that it belongs to; later the cluster's name.
        coordinator: Server id of who forms the cluster.
        sender: Who asks, as a member.
        request: Its certificate request, PEM.
        members: All members of the cluster (`START`), or all that are to be (`PROMISE`: without
            their addresses).
        certificate: The receiver's certificate, PEM (`START`).
        ca: That of the cluster's authority, PEM (`START`).
    """

    datacenter: str = ""
    operation: str = STATUS
    token: str = ""
    coordinator: str = ""
    sender: StorageMember = StorageMember()
    request: bytes | None = None
    members: tuple[StorageMember, ...] | None = None
    certificate: bytes | None = None
    ca: bytes | None = None


class StorageReply(Record, frozen=True, kw_only=True):
    """Answer to a step.

    Attributes:
        member: Who answers.
        state: `NO_STORAGE`, `PROMISED` or `MEMBER`.
        expect: Its `bootstrap_expect`.
        token: What it has promised to, or its cluster's name.
        request: Its certificate request, PEM (`PROMISE`).
        members: All members of the cluster (`JOIN`).
        certificate: The asker's certificate, PEM (`JOIN`, `SIGN`).
        ca: That of the cluster's authority, PEM (`JOIN`, `SIGN`).
    """

    member: StorageMember = StorageMember()
    state: str = NO_STORAGE
    expect: int = 0
    token: str = ""
    request: bytes | None = None
    members: tuple[StorageMember, ...] | None = None
    certificate: bytes | None = None
    ca: bytes | None = None
