"""Keys and values: ``KVS``.

The size of a value is bounded by the HTTP door, not here. Source: protocol/http-api.md §6.4.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from isthmus.errors import RequestError
from isthmus.model.kv import (
    KV_DELETE_TREE,
    IndexedDirEntries,
    IndexedKeyList,
    KeyListRequest,
    KeyRequest,
    KVSRequest,
)
from isthmus.server.endpoints.context import Context, Handler

_APPLY_PREFIX: Final = "raft apply failed: "  # Consul's, which clients match.


async def apply(context: Context, request: KVSRequest) -> bool:
    """Write a key; True only for a compare-and-set or lock that took place.

    Raises:
        RequestError: There is no key, or the write was refused.
    """
    if not request.dir_ent.key and request.op != KV_DELETE_TREE:
        raise RequestError("Must provide key")
    try:
        done = await context.commit(
            msgspec.structs.replace(request, datacenter=context.dc, token="")
        )
    except RequestError as error:
        raise RequestError(f"{_APPLY_PREFIX}{error}", status=error.status) from error
    return bool(done)


async def get(context: Context, request: KeyRequest) -> IndexedDirEntries:
    """One key; no entries when it does not exist. The entry is the stored object itself."""
    kv = context.store.kv
    if request.min_query_index or request.require_consistent:
        answer = await context.read(request, lambda: kv.get(request.key))
    else:
        answer = kv.get(request.key)
    entries = None if answer.value is None else (answer.value,)
    return IndexedDirEntries(entries=entries, index=answer.shown_index, known_leader=True)


async def list_entries(context: Context, request: KeyRequest) -> IndexedDirEntries:
    """All entries under a prefix; None when there is none."""
    kv = context.store.kv
    answer = await context.read(request, lambda: kv.list(request.key))
    return IndexedDirEntries(
        entries=answer.value or None, index=answer.shown_index, known_leader=True
    )


async def list_keys(context: Context, request: KeyListRequest) -> IndexedKeyList:
    """Keys under a prefix, folded at a separator."""
    kv = context.store.kv
    answer = await context.read(request, lambda: kv.keys(request.prefix, request.seperator))
    return IndexedKeyList(keys=answer.value or None, index=answer.shown_index, known_leader=True)


METHODS: Final[Mapping[str, Handler]] = {
    "Apply": apply,
    "Get": get,
    "List": list_entries,
    "ListKeys": list_keys,
}
