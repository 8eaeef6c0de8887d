"""Address templates: ``{{ GetPrivateIP }}`` and its like, as Consul's users write them.

Only the functions that name one address are known; pipelines (``GetAllInterfaces | include …``)
are refused by name, so that nobody ends up with another address than meant.

Source: protocol/cli-config-dns.md §2.2; the names of go-sockaddr's template functions.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from isthmus.config.surroundings import InterfaceAddress, IpAddress, Surroundings

_TEMPLATE: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_CALL: Final = re.compile(r"""\s*(\w+)\s*(?:["'`]([^"'`]*)["'`]\s*)?""")

_PRIVATE: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15",
        "fc00::/7",
    )
)  # fmt: skip
"""RFC 6890's blocks that may be forwarded and are not global."""

FUNCTIONS: Final = (
    "GetPrivateIP", "GetPrivateIPs", "GetPublicIP", "GetPublicIPs", "GetInterfaceIP",
    "GetInterfaceIPs",
)  # fmt: skip
"""Template functions that are supported."""


def is_template(text: str) -> bool:
    """Whether `text` holds a template."""
    return "{{" in text


def expand(text: str, surroundings: Surroundings) -> str:
    """Replace every template in `text`.

    Returns:
        What remains; functions that name several addresses part them by spaces.

    Raises:
        ValueError: Unknown function, no such interface, or no address; it says which.
    """

    def replace(found: re.Match[str]) -> str:
        return _call(found[1], surroundings)

    expanded = _TEMPLATE.sub(replace, text)
    if is_template(expanded):
        raise ValueError(f"template {text!r} has no closing }}}}")
    return expanded


def advertised_ipv4(interfaces: Sequence[InterfaceAddress]) -> list[str]:
    """IPv4 addresses that an agent may advertise if none is configured; one is unambiguous.

    The private ones; on a machine without any, all that are not loopback or link-local.
    """
    ipv4 = [
        one.address
        for one in _sorted(interfaces)
        if one.address.version == 4 and not one.address.is_loopback
    ]
    private = [address for address in ipv4 if is_private(address)]
    return [str(address) for address in private or ipv4]


def is_private(address: IpAddress) -> bool:
    """Whether the address is of a private, forwardable block of RFC 6890."""
    return any(address in network for network in _PRIVATE)


def _call(text: str, surroundings: Surroundings) -> str:
    found = _CALL.fullmatch(text)
    if found is None or found[1] not in FUNCTIONS:
        raise ValueError(
            f"template {{{{{text}}}}} is not supported; write an address, or one of "
            + ", ".join(FUNCTIONS)
        )
    function, interface = found[1], found[2] or ""
    try:
        addresses = _sorted(surroundings.interfaces())
    except OSError as error:
        raise ValueError(f"the machine's addresses cannot be read: {error}") from error
    if function.startswith("GetInterfaceIP"):
        names = sorted({one.interface for one in addresses})
        if interface not in names:
            known = ", ".join(names)
            raise ValueError(f"no interface {interface!r} has an address; there are {known}")
        chosen = [one for one in addresses if one.interface == interface]
    elif function.startswith("GetPrivateIP"):
        chosen = [one for one in addresses if is_private(one.address)]
    else:
        chosen = [one for one in addresses if one.address.is_global]
    if not chosen:
        raise ValueError(f"template {{{{{text}}}}} finds no address on this machine")
    return " ".join(str(one.address) for one in (chosen if function.endswith("s") else chosen[:1]))


def _sorted(addresses: Sequence[InterfaceAddress]) -> list[InterfaceAddress]:
    """Sort: default route first, then IPv4 before IPv6, then small networks first."""
    return sorted(
        (one for one in addresses if not one.address.is_link_local),
        key=lambda one: (
            not one.default,
            one.address.version,
            one.address.max_prefixlen - one.prefix_length,
        ),
    )
