"""A DNS door without sockets: a fake catalog, and questions as the library builds them."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

from isthmus.dns.config import DnsConfig
from isthmus.dns.door import Door, OtherNames
from isthmus.dns.lookups import Lookups
from isthmus.model.catalog import (
    PASSING,
    CheckServiceNode,
    HealthCheck,
    IndexedCheckServiceNodes,
    IndexedNodes,
    IndexedNodeServices,
    IndexedServiceNodes,
    Node,
    NodeService,
    NodeServices,
    ServiceAddress,
    ServiceNode,
    Weights,
)
from support.http import FakeRpc

NOW = 1_700_000_000


def instance(
    node: str = "n1",
    address: str = "10.0.0.1",
    *,
    service: str = "web",
    own: str = "",
    port: int = 80,
    states: Sequence[str] = (PASSING,),
    meta: Mapping[str, str] | None = None,
    wan: str = "",
    service_wan: ServiceAddress | None = None,
    weights: Weights | None = None,
    dc: str = "dc1",
) -> CheckServiceNode:
    """An instance of a service on a node."""
    return CheckServiceNode(
        node=Node(
            node=node,
            address=address,
            datacenter=dc,
            tagged_addresses={"wan": wan} if wan else None,
            meta=dict(meta) if meta else None,
        ),
        service=NodeService(
            id=f"{service}-{port}",
            service=service,
            address=own,
            port=port,
            weights=weights,
            tagged_addresses={"wan": service_wan} if service_wan is not None else None,
        ),
        checks=tuple([HealthCheck(node=node, status=state) for state in states]),
    )


def instances(count: int, **fields: Any) -> tuple[CheckServiceNode, ...]:
    """That many instances on as many nodes."""
    return tuple(
        [instance(f"n{number}", f"10.0.0.{number}", **fields) for number in range(1, count + 1)]
    )


def found(*nodes: CheckServiceNode, **fields: Any) -> IndexedCheckServiceNodes:
    """Reply of ``Health.ServiceNodes``."""
    return IndexedCheckServiceNodes(nodes=nodes, index=7, known_leader=True, **fields)


def found_node(node: Node | None) -> IndexedNodeServices:
    """Reply of ``Catalog.NodeServices``."""
    services = None if node is None else NodeServices(node=node, services={})
    return IndexedNodeServices(node_services=services, index=7, known_leader=True)


class Asking:
    """A door and somebody who asks.

    Attributes:
        rpc: What is in the catalog.
        here: Whether the data is in the process.

    Args:
        rpc: The catalog.
        here: See above.
        recursor: Knows other names.
        settings: Of the configuration.
    """

    def __init__(
        self,
        rpc: FakeRpc | None = None,
        *,
        here: bool = True,
        recursor: OtherNames | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        self.rpc = rpc or catalog()
        self.here = here
        self.config = DnsConfig(datacenter="dc1", node_name="own", **settings)
        self.lookups = Lookups(self.config, self.rpc, is_here=lambda stale: self.here)
        self.door = Door(
            self.config,
            self.lookups,
            recursor,
            rng=Random(seed),
            wall=lambda: NOW,
        )

    async def send(self, data: bytes, *, tcp: bool = False) -> bytes | None:
        """Bytes in, bytes out."""
        answer = self.door.receive(data, "192.0.2.7", tcp=tcp)
        return answer if answer is None or isinstance(answer, bytes) else await answer

    async def ask(
        self,
        name: str,
        kind: str = "A",
        *,
        tcp: bool = False,
        edns: int | None = None,
        options: Sequence[dns.edns.Option] = (),
        ident: int = 99,
    ) -> dns.message.Message:
        """The answer to a question; that it is one to it is checked."""
        query = dns.message.make_query(name, kind, id=ident)
        if edns is not None:
            query.use_edns(0, payload=edns, options=list(options))
        data = await self.send(query.to_wire(), tcp=tcp)
        assert data is not None
        if not tcp:
            assert len(data) <= max(512, edns or 0)
        answer = dns.message.from_wire(data)
        assert query.is_response(answer), (query, answer)
        return answer


def catalog(
    *nodes: CheckServiceNode,
    node: Node | None = None,
    listed: Sequence[Node] = (),
    at: Sequence[ServiceNode] = (),
) -> FakeRpc:
    """A catalog that knows instances of one service, a node, and what is at an address."""
    return FakeRpc(
        Health_ServiceNodes=found(*nodes),
        Catalog_NodeServices=found_node(node),
        Catalog_ListNodes=IndexedNodes(nodes=tuple(listed), index=7),
        Catalog_ServiceNodes=IndexedServiceNodes(service_nodes=tuple(at), index=7),
    )


def rows(section: Sequence[dns.rrset.RRset]) -> list[str]:
    """Records of a section as ``owner ttl type data``, in order."""
    return [
        f"{rrset.name} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {rdata}"
        for rrset in section
        for rdata in rrset
    ]
