"""Consul's own snapshots: what Raft's state machine writes of its tables.

The file is an archive (`wire.archive`) of ``meta.json``, ``state.bin`` and ``SHA256SUMS``.
``state.bin`` is MessagePack: a header ``{LastIndex}``, then for each row a byte that tells its
type and one value, with no length anywhere::

    map | (type:u8 | value)*

==== ============================ ======================================================
byte name in Consul               value
==== ============================ ======================================================
0    Register                     `RegisterRequest`: a node, then one for each of its
                                  services, then one for each of its checks
2    KVS                          `DirEntry`
3    Session                      `Session`
4    ACL                          (before 1.4)
5    Tombstone                    `DirEntry`: key and index of a deletion
6    CoordinateBatchUpdate        list of `Coordinate`
7    PreparedQuery                `PreparedQuery`
9    Autopilot                    map
12   Intention                    map
13   ConnectCA                    a root
14   ConnectCAProviderState       map
15   ConnectCAConfig              map
16   Index                        ``{Key, Value}``: index of a table
17   ACLToken                     map
19   ACLPolicy                    map
22   ConfigEntry                  string that holds MessagePack (`wire.blob`)
23   ACLRole                      map
25   ACLBindingRule               map
27   ACLAuthMethod                map
29   ChunkingState                map
30   FederationState              `FederationStateRequest`
31   SystemMetadata               ``{Key, Value}``
==== ============================ ======================================================

Releases after 1.10 know more types; each of their values is one MessagePack value all the same.
Source: protocol/federation.md §9.1 (captured); the rest read in the public source of 1.9.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgpack

from isthmus.wire.archive import SUMS, ArchiveReader, Readable, UnreadableSnapshot

META: Final = "meta.json"
STATE: Final = "state.bin"
META_SIZE_MAX: Final = 1024 * 1024
VALUE_SIZE_MAX: Final = 64 * 1024 * 1024
"""Longest value that is read."""

REGISTER: Final = 0
KVS: Final = 2
SESSION: Final = 3
TOMBSTONE: Final = 5
COORDINATES: Final = 6
PREPARED_QUERY: Final = 7
AUTOPILOT: Final = 9
INTENTION: Final = 12
CONNECT_CA: Final = 13
INDEX: Final = 16
ACL_TOKEN: Final = 17
ACL_POLICY: Final = 19
CONFIG_ENTRY: Final = 22
ACL_ROLE: Final = 23
ACL_BINDING_RULE: Final = 25
ACL_AUTH_METHOD: Final = 27
FEDERATION_STATE: Final = 30

TYPE_NAMES: Final = {
    0: "Register", 1: "Deregister", 2: "KVS", 3: "Session", 4: "ACL", 5: "Tombstone",
    6: "CoordinateBatchUpdate", 7: "PreparedQuery", 8: "Txn", 9: "Autopilot", 10: "Area",
    11: "ACLBootstrap", 12: "Intention", 13: "ConnectCA", 14: "ConnectCAProviderState",
    15: "ConnectCAConfig", 16: "Index", 17: "ACLToken", 18: "ACLTokenDelete", 19: "ACLPolicy",
    20: "ACLPolicyDelete", 21: "ConnectCALeaf", 22: "ConfigEntry", 23: "ACLRole",
    24: "ACLRoleDelete", 25: "ACLBindingRule", 26: "ACLBindingRuleDelete", 27: "ACLAuthMethod",
    28: "ACLAuthMethodDelete", 29: "ChunkingState", 30: "FederationState", 31: "SystemMetadata",
    32: "ServiceVirtualIP", 33: "FreeVirtualIP", 34: "KindServiceNames",
}  # fmt: skip
"""Names of the types as ``snapshot inspect`` shows them."""


class ConsulRow(NamedTuple):
    """One row.

    Attributes:
        type: Its type byte.
        value: The plain value; text that is not UTF-8 carries surrogates.
        size: Bytes of it, its type byte included.
    """

    type: int
    value: Any
    size: int


class ConsulSnapshotReader:
    """Reads a snapshot of Consul's once.

    Args:
        source: The file, at its beginning.

    Attributes:
        meta: What Raft says of it: ``ID``, ``Index``, ``Term``, ``Version``, ``Size`` …

    Raises:
        UnreadableSnapshot: Its head says that it is none.
    """

    def __init__(self, source: Readable) -> None:
        self._archive = ArchiveReader(source, (META, STATE))
        self._files = self._archive.files()
        name, _ = next(self._files, ("", 0))
        if name != META:
            raise UnreadableSnapshot(f"the snapshot does not begin with {META}")
        try:
            found = json.loads(self._archive.whole(META_SIZE_MAX, META))
        except (ValueError, RecursionError) as error:
            raise UnreadableSnapshot(f"failed to decode snapshot metadata: {error}") from error
        self.meta: dict[str, Any] = found if isinstance(found, dict) else {}
        if "Index" not in self.meta:
            raise UnreadableSnapshot(
                "this is no snapshot of Consul; if it is one of isthmus: isthmus snapshot restore"
            )
        self.last_index = 0
        """Index of the last change, once the first row was read."""

    def rows(self) -> Iterator[ConsulRow]:
        """Yield the rows. Only after the last one it is known that the file is whole.

        Raises:
            UnreadableSnapshot: Truncated, or damaged.
        """
        name, _ = next(self._files, ("", 0))
        if name != STATE:
            raise UnreadableSnapshot(f"the snapshot has no {STATE} behind its {META}")
        yield from self._unpacked()
        if extra := next(self._files, None):
            raise UnreadableSnapshot(f'unexpected file "{extra[0]}" in snapshot with {SUMS}')

    def _unpacked(self) -> Iterator[ConsulRow]:
        unpacker = msgpack.Unpacker(
            raw=False,
            unicode_errors="surrogateescape",
            strict_map_key=False,
            max_buffer_size=VALUE_SIZE_MAX,
        )
        kind: int | None = None
        fed = begun = 0
        first = True
        try:
            for piece in self._archive.content():
                fed += len(piece)
                unpacker.feed(piece)
                # A type byte reads as a small number of MessagePack, which it is in all releases.
                for value in unpacker:
                    if first:
                        self._take_header(value)
                        first = False
                    elif kind is None:
                        kind = _type_of(value)
                    else:
                        yield ConsulRow(kind, value, unpacker.tell() - begun)
                        kind = None
                    if kind is None:
                        begun = unpacker.tell()
        except msgpack.BufferFull:
            raise UnreadableSnapshot(
                f"a value in the snapshot exceeds {VALUE_SIZE_MAX} bytes"
            ) from None
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise UnreadableSnapshot(f"the snapshot's {STATE} cannot be read: {error}") from error
        if first or kind is not None or unpacker.tell() != fed:
            raise UnreadableSnapshot(f"the snapshot's {STATE} ends inside a row")

    def _take_header(self, value: object) -> None:
        index = value.get("LastIndex") if isinstance(value, dict) else None
        if type(index) is not int or index < 0:
            raise UnreadableSnapshot(f"the snapshot's {STATE} has no header")
        self.last_index = index


def _type_of(value: object) -> int:
    if type(value) is int and 0 <= value < 0x80:
        return value
    raise UnreadableSnapshot(f"the snapshot's {STATE} has something else than a type byte")


__all__ = [
    "CONFIG_ENTRY",
    "COORDINATES",
    "FEDERATION_STATE",
    "INDEX",
    "KVS",
    "PREPARED_QUERY",
    "REGISTER",
    "SESSION",
    "TOMBSTONE",
    "TYPE_NAMES",
    "ConsulRow",
    "ConsulSnapshotReader",
    "UnreadableSnapshot",
]
