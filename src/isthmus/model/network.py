"""Networks as operators write them, and whether an address is in one."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


class Networks:
    """Some networks.

    Args:
        texts: ``10.0.0.0/8``, ``fd00::/8``, ``192.0.2.7``; bits behind the prefix do not count.

    Raises:
        ValueError: One is no network.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(
            ip_network(text, strict=False) for text in texts
        )

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        """Whether an address is in one of them; a text that is no address is in none."""
        try:
            found = ip_address(address.partition("%")[0].strip("[]"))
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self._networks)
