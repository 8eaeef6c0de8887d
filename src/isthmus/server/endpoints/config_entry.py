"""What operators say of services, proxies and gateways: ``ConfigEntry``.

Writes are carried out in the primary datacenter, whichever server takes them.
Source: protocol/rpc.md §5.2, protocol/http-api.md §6.6.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from isthmus.errors import RequestError
from isthmus.model.config_checks import checked
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    DELETE,
    INGRESS_GATEWAY,
    PROXY_DEFAULTS,
    PROXY_DEFAULTS_NAME,
    SERVICE_DEFAULTS,
    SERVICE_RESOLVER,
    SERVICE_ROUTER,
    SERVICE_SPLITTER,
    TERMINATING_GATEWAY,
    UPSERT,
    UPSERT_CAS,
    ConfigEntry,
    ConfigEntryListAllRequest,
    ConfigEntryQuery,
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
)
from isthmus.model.query import Empty
from isthmus.server.endpoints.context import Context, Handler

KINDS_UNASKED: Final = (
    SERVICE_DEFAULTS,
    PROXY_DEFAULTS,
    SERVICE_ROUTER,
    SERVICE_SPLITTER,
    SERVICE_RESOLVER,
    INGRESS_GATEWAY,
    TERMINATING_GATEWAY,
)
"""What a secondary knows that names no kinds: those of Consul 1.8."""


async def apply(context: Context, request: ConfigEntryRequest) -> bool:
    """Write an entry; runs in the primary only. False when an ``upsert-cas`` came too late.

    Any other operation is an upsert.

    Raises:
        RequestError: The entry breaks a rule; the text is Consul's.
    """
    try:
        entry = checked(_entry_of(request))
    except RequestError as error:  # To whoever asks over RPC only the text would tell.
        raise RequestError(str(error)) from error
    op = UPSERT_CAS if request.op == UPSERT_CAS else UPSERT
    return bool(await context.commit(_command(context, op, entry)))


async def delete(context: Context, request: ConfigEntryRequest) -> Empty:
    """Delete an entry, which need not be there; runs in the primary only.

    Raises:
        RequestError: No entry is named.
    """
    entry = _entry_of(request)
    if entry.kind == PROXY_DEFAULTS:
        entry = msgspec.structs.replace(entry, name=PROXY_DEFAULTS_NAME)
    await context.commit(_command(context, DELETE, entry))
    return Empty()


async def get(context: Context, request: ConfigEntryQuery) -> ConfigEntryResponse:
    """One entry; None when there is none.

    Raises:
        RequestError: There is no such kind.
    """
    _check_kind(request.kind)
    entries = context.store.config_entries
    answer = await context.read(request, lambda: entries.get(request.kind, request.name))
    return ConfigEntryResponse(entry=answer.value, index=answer.shown_index, known_leader=True)


async def list_kind(context: Context, request: ConfigEntryQuery) -> IndexedConfigEntries:
    """All entries of a kind by name; without a kind all of all kinds.

    Servers of Consul cannot read those of several kinds out of this reply, only `list_all`'s.

    Raises:
        RequestError: There is no such kind.
    """
    if request.kind:
        _check_kind(request.kind)
    entries = context.store.config_entries
    answer = await context.read(request, lambda: entries.list(request.kind))
    return IndexedConfigEntries(
        kind=request.kind, entries=answer.value, index=answer.shown_index, known_leader=True
    )


async def list_all(
    context: Context, request: ConfigEntryListAllRequest
) -> IndexedGenericConfigEntries:
    """All entries of the kinds that the caller knows; of any other they could not be read."""
    kinds, entries = request.kinds or KINDS_UNASKED, context.store.config_entries
    answer = await context.read(request, lambda: entries.list_of(kinds))
    return IndexedGenericConfigEntries(
        entries=answer.value, index=answer.shown_index, known_leader=True
    )


def _entry_of(request: ConfigEntryRequest) -> ConfigEntry:
    if request.entry is None:
        raise RequestError("invalid request: missing config entry")
    _check_kind(request.entry.kind)
    return request.entry


def _check_kind(kind: str) -> None:
    if kind not in CONFIG_ENTRY_TYPES:
        raise RequestError(f"invalid config entry kind: {kind}")


def _command(context: Context, op: str, entry: ConfigEntry) -> ConfigEntryRequest:
    return ConfigEntryRequest(datacenter=context.dc, op=op, entry=entry)


METHODS: Final[Mapping[str, Handler]] = {
    "Apply": apply,
    "Delete": delete,
    "Get": get,
    "List": list_kind,
    "ListAll": list_all,
}
