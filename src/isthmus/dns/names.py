"""What a name asks for. Source: protocol/cli-config-dns.md §3.1.

A name is ``NAME.KIND[.DC].DOMAIN``: the kind is the last label that is one, so that services, tags
and nodes may be named after kinds.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

_KINDS: Final = frozenset({"service", "connect", "ingress", "node", "query", "addr", "virtual"})
_ANY_TAG: Final = "tcp"
_V4_SUFFIX: Final = ("in-addr", "arpa")
_V6_SUFFIX: Final = ("ip6", "arpa")
_V4_LABELS: Final = 4
_V6_LABELS: Final = 32


@dataclass(frozen=True, slots=True)
class ServiceLookup:
    """Instances of a service.

    Attributes:
        dc: Datacenter; empty for ours.
        tag: Which they have; empty for any.
        connect: Those that speak the mesh's TLS for it.
        ingress: Ingress gateways for it.
    """

    dc: str
    service: str
    tag: str = ""
    connect: bool = False
    ingress: bool = False


@dataclass(frozen=True, slots=True)
class NodeLookup:
    """A node."""

    dc: str
    node: str


@dataclass(frozen=True, slots=True)
class QueryLookup:
    """What a prepared query, by name or id, finds."""

    dc: str
    query: str


@dataclass(frozen=True, slots=True)
class AddressLookup:
    """The address that the name itself is: 4 or 16 bytes."""

    address: bytes


@dataclass(frozen=True, slots=True)
class VirtualLookup:
    """The virtual address of a service: not in Consul 1.10, and not here."""

    service: str


Lookup: TypeAlias = ServiceLookup | NodeLookup | QueryLookup | AddressLookup | VirtualLookup


def read_name(labels: Sequence[str], *, srv: bool) -> Lookup | None:
    """What a name asks for; None when it is none of ours.

    Args:
        labels: In lower case and without the domain's.
        srv: Whether SRV records are asked for: then ``service`` may be missing.
    """
    for at in range(len(labels) - 1, -1, -1):
        label = labels[at]
        if label in _KINDS:
            return _read_kind(label, labels[:at], labels[at + 1 :])
        if srv and label.startswith("_"):
            return _read_kind("service", labels[: at + 1], labels[at + 1 :])
    return None


def _read_kind(kind: str, names: Sequence[str], suffix: Sequence[str]) -> Lookup | None:
    if kind == "addr":
        return _read_address(names)
    if not names or len(suffix) > 1:
        return None
    dc = suffix[0] if suffix else ""
    if kind == "service":
        return _read_service(names, dc)
    if kind == "node":
        return NodeLookup(dc, ".".join(names))
    if kind == "query":
        return QueryLookup(dc, _query_name(names))
    if kind == "virtual":
        return VirtualLookup(names[-1])
    return ServiceLookup(dc, names[-1], connect=kind == "connect", ingress=kind == "ingress")


def _read_service(names: Sequence[str], dc: str) -> ServiceLookup:
    if len(names) == 2 and names[0].startswith("_") and names[1].startswith("_"):  # RFC 2782.
        tag = names[1][1:]
        return ServiceLookup(dc, names[0][1:], "" if tag == _ANY_TAG else tag)
    return ServiceLookup(dc, names[-1], ".".join(names[:-1]))


def _query_name(names: Sequence[str]) -> str:
    """The query's name; of ``_NAME._tcp``, which SRV clients ask for, the part that names it."""
    if len(names) >= 2 and names[0].startswith("_") and names[-1].startswith("_"):
        names = names[:-1]
        return ".".join(names)[1:]
    return ".".join(names)


def _read_address(names: Sequence[str]) -> AddressLookup | None:
    if len(names) != 1 or len(names[0]) not in {8, 32} or not names[0].isascii():
        return None
    try:
        return AddressLookup(bytes.fromhex(names[0]))
    except ValueError:
        return None


def is_reverse(labels: Sequence[str]) -> bool:
    """Whether a name stands in the tree of addresses."""
    return bool(labels) and labels[-1] == "arpa"


def read_reverse(labels: Sequence[str]) -> str | None:
    """The address that a name in ``in-addr.arpa`` or ``ip6.arpa`` is about; None for no whole one.

    Args:
        labels: All of the name, in lower case.
    """
    *parts, zone, top = labels if len(labels) > 2 else ("", "", "")
    if (zone, top) == _V4_SUFFIX and len(parts) == _V4_LABELS:
        text = ".".join(reversed(parts))
    elif (zone, top) == _V6_SUFFIX and len(parts) == _V6_LABELS:
        digits = "".join(reversed(parts))
        text = ":".join(digits[at : at + 4] for at in range(0, _V6_LABELS, 4))
    else:
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def strip_domain(labels: Sequence[str], domains: Sequence[str]) -> tuple[Sequence[str], str] | None:
    """Split a name into what stands before a domain and that domain; None: it is in none of them.

    The longest of the domains that fit is taken, so one of them may lie in the other.
    """
    for domain in sorted(domains, key=len, reverse=True):
        own = domain.split(".")
        if len(labels) >= len(own) and list(labels[len(labels) - len(own) :]) == own:
            return labels[: len(labels) - len(own)], domain
    return None
