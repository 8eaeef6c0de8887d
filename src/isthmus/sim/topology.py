"""What is simulated: datacenters, the hosts in each, and the links between them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from isthmus.sim.network import LinkModel

DATACENTERS_MAX: Final = 2000
SERVERS_MAX: Final = 9
CLIENTS_MAX: Final = 5000
GATEWAYS_MAX: Final = 9
HOSTS_MAX: Final = 50_000


class Role(StrEnum):
    """What a host does."""

    SERVER = "server"
    CLIENT = "client"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, order=True)
class Host:
    """One host of the simulation.

    Attributes:
        dc: Its datacenter, ``dc3``.
        role: What it does.
        number: From 1, among the hosts of that role in that datacenter.
    """

    dc: str
    role: Role
    number: int

    @property
    def node(self) -> str:
        """Name within its datacenter: ``server2``."""
        return f"{self.role}{self.number}"

    @property
    def name(self) -> str:
        """Name in the WAN pool: ``server2.dc3``."""
        return f"{self.node}.{self.dc}"

    def __str__(self) -> str:
        """As the fault language has it: ``server 2 of dc3``."""
        return f"{self.role} {self.number} of {self.dc}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The federation. Every datacenter is built alike; ``dc1`` is the primary.

    Attributes:
        datacenters: How many: ``dc1`` to ``dcN``.
        servers: Servers of each datacenter.
        clients: Client agents of each datacenter: members of its LAN pool only.
        gateways: Mesh gateways of each datacenter.
        lan: Links between the hosts of one datacenter.
        wan: Links between the gateways of two datacenters.
        pairs: Links that differ from `wan`, by datacenter that sends and datacenter that receives.
        warm: Start with every pool joined and every federation state known everywhere; otherwise
            each server starts alone and joins, as a federation does that is switched on.
    """

    datacenters: int = 3
    servers: int = 3
    clients: int = 0
    gateways: int = 2
    lan: LinkModel = field(default_factory=LinkModel.lan)
    wan: LinkModel = field(default_factory=LinkModel.wan)
    pairs: Mapping[tuple[str, str], LinkModel] = field(default_factory=dict)
    warm: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (
            ("datacenters", 1, DATACENTERS_MAX),
            ("servers", 1, SERVERS_MAX),
            ("clients", 0, CLIENTS_MAX),
            ("gateways", 1, GATEWAYS_MAX),
        ):
            count = getattr(self, name)
            if not low <= count <= high:
                raise ValueError(f"{name}: {count} is not within {low} to {high}")
        if self.host_count > HOSTS_MAX:
            raise ValueError(f"{self.host_count} hosts; the simulator holds {HOSTS_MAX}")
        for source, target in self.pairs:
            for dc in (source, target):
                if self.number_of(dc) is None:
                    raise ValueError(f"links: there is no {dc}; there are dc1 to {self.last}")
            if source == target:
                raise ValueError(f"links: {source} to itself is its LAN; set that with [lan]")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the datacenters, the primary first."""
        return tuple(f"dc{number}" for number in range(1, self.datacenters + 1))

    @property
    def primary(self) -> str:
        """The datacenter that owns the federation states."""
        return "dc1"

    @property
    def last(self) -> str:
        """Name of the last datacenter."""
        return f"dc{self.datacenters}"

    @property
    def host_count(self) -> int:
        """Number of all hosts."""
        return self.datacenters * (self.servers + self.clients + self.gateways)

    def count(self, role: Role) -> int:
        """Number of the hosts of a role in each datacenter."""
        counts = {
            Role.SERVER: self.servers,
            Role.CLIENT: self.clients,
            Role.GATEWAY: self.gateways,
        }
        return counts[role]

    def number_of(self, dc: str) -> int | None:
        """Number of a datacenter by its name; None: there is none of that name."""
        digits = dc.removeprefix("dc")
        if digits == dc or not digits.isdecimal() or not digits.isascii() or digits[0] == "0":
            return None
        number = int(digits)
        return number if number <= self.datacenters else None

    def hosts(self, role: Role, dc: str | None = None) -> Iterator[Host]:
        """Hosts of one role, of one datacenter or of all, in order."""
        for name in self.names if dc is None else (dc,):
            for number in range(1, self.count(role) + 1):
                yield Host(name, role, number)

    def link(self, source: str, target: str) -> LinkModel:
        """The undisturbed link from one datacenter to another, or within one."""
        if source == target:
            return self.lan
        return self.pairs.get((source, target), self.wan)
