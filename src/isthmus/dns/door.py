"""From a request to its answer; knows no sockets.

A request goes one of three ways:

1. It is like an earlier one about a service or node, and the data is in this process: what was
   looked up is compared with then, and the records encoded then are written in a new order.
2. It needs a call, a recursor, or more: a coroutine, which the server runs as a task.
3. It is no question: refused at once, or ignored.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, Protocol, TypeAlias

from isthmus.dns import records
from isthmus.dns.addresses import pack
from isthmus.dns.config import DnsConfig
from isthmus.dns.instances import (
    QUESTION,
    Ask,
    Group,
    healthy,
    node_group,
    service_groups,
)
from isthmus.dns.lookups import Lookups
from isthmus.dns.message import Answer, Limits, write_answer
from isthmus.dns.names import (
    AddressLookup,
    Lookup,
    NodeLookup,
    QueryLookup,
    ServiceLookup,
    VirtualLookup,
    is_reverse,
    read_name,
    read_reverse,
    strip_domain,
)
from isthmus.dns.records import Record, encode_name
from isthmus.dns.request import (
    HEADER_SIZE,
    NAME_ERROR,
    REFUSED,
    SERVER_FAILURE,
    Request,
    cache_key,
    failure,
    read_request,
)
from isthmus.errors import NO_PATH, IsthmusError
from isthmus.model.catalog import CONSUL_SERVICE, CheckServiceNode, Node
from isthmus.units import SECOND, parse_duration

logger = logging.getLogger(__name__)

ENTRIES_MAX: Final = 4096
"""Questions whose answers are kept encoded."""
DENIALS_MAX: Final = 1024
"""Unknown names that are remembered: apart from the others, as there is no end to them."""
INSTANCES_KEPT_MAX: Final = 65_536
"""Instances in them all together."""
NAME_SERVERS_MAX: Final = 3
ALIAS_DEPTH_MAX: Final = 3
"""Names of ours that lead to names of ours."""
ALIAS_RECORDS_MAX: Final = 5
"""Records of a host name in an answer to who does not speak EDNS."""
NOT_SUPPORTED: Final = 21
"""Extended error (RFC 8914)."""

_QUERY_NOT_FOUND: Final = "Query not found"
_SERVICE_NODES: Final = "Health.ServiceNodes"
_NODE_SERVICES: Final = "Catalog.NodeServices"
_EXECUTE: Final = "PreparedQuery.Execute"
_NODE_TYPES: Final = frozenset({records.A, records.AAAA, records.ANY, records.TXT})
_BAD_NODE_NAME: Final = frozenset(" ._/\\:;,\"'")

Answering: TypeAlias = Coroutine[Any, Any, bytes]


@dataclass(slots=True)
class _Entry:
    """An answer that is kept encoded.

    Attributes:
        request: The first that asked so.
        lookup: What the name asks for.
        ask: How answers look.
        method, call: What was looked up, and with what.
        source: What was found then.
        answer: Made from that.
    """

    request: Request
    lookup: ServiceLookup | NodeLookup
    ask: Ask
    method: str
    call: Any
    source: Any
    answer: Answer


class OtherNames(Protocol):
    """Knows names that are not ours; `dns.recursor.Recursor` does."""

    async def forward(self, request: Request, *, tcp: bool) -> bytes:
        """What it answers to a request.

        Raises:
            Unavailable: It does not.
        """

    async def addresses_of(self, host: str, *, six: bool = False) -> list[Record]:
        """Addresses of a host name and the names on the way to them; none if it is unknown."""


class Door:
    """Answers requests.

    Attributes:
        domain_count, reverse_count, recursion_count: Requests about our domain, about addresses,
            and those passed on.
        failure_count: Requests answered "server failure".

    Args:
        config: What the operator wants.
        lookups: The way to the data.
        recursor: The way to other names, if there is one.
        rng: Source of the order of answers.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        config: DnsConfig,
        lookups: Lookups,
        recursor: OtherNames | None,
        *,
        rng: Random,
        wall: Callable[[], float],
    ) -> None:
        self._lookups, self._rng, self._wall = lookups, rng, wall
        self.domain_count = self.reverse_count = self.recursion_count = self.failure_count = 0
        self.reconfigure(config, recursor)

    def reconfigure(self, config: DnsConfig, recursor: OtherNames | None) -> None:
        """Answer in another way from now on."""
        self._config, self._recursor = config, recursor
        self._lookups.config = config
        self._entries: dict[object, _Entry] = {}
        self._denials: dict[object, _Entry] = {}
        self._kept = 0
        self._reverse: tuple[object, dict[bytes | None, str]] = ((), {})
        self._limits = Limits(
            a_record_limit=config.a_record_limit,
            udp_answer_limit=config.udp_answer_limit,
            enable_truncate=config.enable_truncate,
            disable_compression=config.disable_compression,
            recursion_available=recursor is not None,
        )

    # Ways through ---------------------------------------------------------------------------------

    def receive(self, data: bytes, client: str, *, tcp: bool) -> bytes | Answering | None:
        """Take a request.

        Args:
            data: Its bytes.
            client: IP address that it comes from.
            tcp: Whether it came by TCP.

        Returns:
            The answer; or a coroutine that makes it; or None: there is none.
        """
        key = cache_key(data)
        entry = self._entries.get(key) or self._denials.get(key)
        if entry is not None:
            reply = self._lookups.at_once(entry.method, entry.call)
            if reply is None:
                return self._answer_again(data, client, tcp=tcp, key=key, entry=entry)
            if self._refresh(entry, reply):
                self.domain_count += 1
                return self._write_again(data, entry, tcp=tcp)
            self._forget(key)
        found = read_request(data)
        if not isinstance(found, Request):
            return found
        return self._answer(found, client, tcp=tcp, key=key)

    def _write_again(self, data: bytes, entry: _Entry, *, tcp: bool) -> bytes:
        """Answer a request that is like the one of an entry but for id and spelling."""
        return write_answer(
            entry.request,
            entry.answer,
            self._limits,
            tcp=tcp,
            rng=self._rng,
            ident=data[:2],
            question=data[HEADER_SIZE : HEADER_SIZE + len(entry.request.question)],
        )

    async def _answer_again(
        self, data: bytes, client: str, *, tcp: bool, key: object, entry: _Entry
    ) -> bytes:
        """The same when the data is elsewhere."""
        try:
            reply = await self._lookups.call(entry.method, entry.call)
        except IsthmusError as error:
            self.domain_count += 1
            ident, end = data[:2], HEADER_SIZE + len(entry.request.question)
            request = replace(entry.request, id=ident, question=data[HEADER_SIZE:end])
            answer = self._failed(request, error)
            return write_answer(request, answer, self._limits, tcp=tcp, rng=self._rng)
        if self._refresh(entry, reply):
            self.domain_count += 1
            return self._write_again(data, entry, tcp=tcp)
        self._forget(key)
        again = read_request(data)
        assert isinstance(again, Request)
        return await self._answer(again, client, tcp=tcp, key=key)

    async def _answer(self, request: Request, client: str, *, tcp: bool, key: object) -> bytes:
        answer: Answer | None
        try:
            inside = strip_domain(request.labels, self._config.domains)
            if inside is not None:
                self.domain_count += 1
                answer = await self._in_domain(request, *inside, client=client, key=key)
            elif is_reverse(request.labels):
                self.reverse_count += 1
                answer = await self._of_address(request)
            else:
                answer = None
            if answer is None:
                return await self._elsewhere(request, tcp=tcp)
        except IsthmusError as error:
            answer = self._failed(request, error)
        return write_answer(request, answer, self._limits, tcp=tcp, rng=self._rng)

    def _failed(self, request: Request, error: IsthmusError) -> Answer:
        """What cannot be looked up: no such datacenter, no such query, or a failure of ours."""
        text = str(error)
        if text.endswith((NO_PATH, _QUERY_NOT_FOUND)):
            return self._no_name(self._config.domain)
        self.failure_count += 1
        logger.debug("question %s was not answered: %s", request.name, text)
        return Answer(SERVER_FAILURE, authoritative=False)

    async def _elsewhere(self, request: Request, *, tcp: bool) -> bytes:
        """Pass a request on.

        Without recursors a name is refused, as nobody asked us to know it; an address that we
        could have known is a failure, so that a resolver asks another server.
        """
        self.recursion_count += 1
        if self._recursor is None:
            rcode = SERVER_FAILURE if is_reverse(request.labels) else REFUSED
            answer = Answer(rcode, authoritative=False)
            return write_answer(request, answer, self._limits, tcp=tcp, rng=self._rng)
        return await self._recursor.forward(request, tcp=tcp)

    # Our domain -----------------------------------------------------------------------------------

    async def _in_domain(
        self, request: Request, labels: Sequence[str], domain: str, *, client: str, key: object
    ) -> Answer:
        if request.type in {records.SOA, records.NS}:
            return await self._of_domain(domain, request.type)
        lookup = read_name(labels, srv=request.type == records.SRV)
        match lookup:
            case ServiceLookup() | NodeLookup():
                return await self._look_up(request, lookup, domain, key=key)
            case QueryLookup():
                return await self._of_query(request, lookup, domain, client=client)
            case AddressLookup(packed):
                return self._of_itself(request, packed)
            case VirtualLookup(service):
                logger.debug("refused the virtual address of %s", service)
                text = f"virtual addresses are not supported; ask for {service}.service.{domain}"
                return Answer(REFUSED, explanation=(NOT_SUPPORTED, text))
            case None:
                return self._no_name(domain)

    async def _look_up(
        self,
        request: Request,
        lookup: ServiceLookup | NodeLookup,
        domain: str,
        *,
        key: object = None,
    ) -> Answer:
        ask = self._ask(request, lookup, domain)
        if isinstance(lookup, NodeLookup) and request.type not in _NODE_TYPES:
            return Answer()
        method, call = self._call(lookup)
        reply = self._lookups.at_once(method, call)
        if reply is None:
            reply = await self._lookups.call(method, call)
        source = _source(lookup, reply)
        answer = self._make(lookup, ask, source)
        if any(group.host for group in answer.groups):
            return replace(answer, groups=await self._complete(request, answer.groups))
        if _is_kept(answer):
            self._keep(key, _Entry(request, lookup, ask, method, call, source, answer))
        return answer

    def _call(self, lookup: ServiceLookup | NodeLookup) -> tuple[str, Any]:
        """The method, and its argument, that finds what a name asks for."""
        if isinstance(lookup, ServiceLookup):
            return _SERVICE_NODES, self._lookups.service_request(lookup)
        return _NODE_SERVICES, self._lookups.node_request(lookup)

    def _ask(self, request: Request, lookup: Lookup, domain: str) -> Ask:
        config = self._config
        dc, ttl = config.datacenter, int(config.node_ttl)
        if isinstance(lookup, ServiceLookup | NodeLookup):
            dc = lookup.dc or dc
        if isinstance(lookup, ServiceLookup):
            ttl = config.ttl_of(lookup.service)
        return Ask(
            name=request.name,
            type=request.type,
            domain=domain,
            dc=dc,
            ttl=ttl,
            wan=config.translate_wan_addrs and dc != config.datacenter,
            texts=config.node_meta_txt,
        )

    def _make(self, lookup: ServiceLookup | NodeLookup, ask: Ask, source: Any) -> Answer:
        """The answer to what was found."""
        if isinstance(lookup, NodeLookup):
            if source is None:
                return self._no_name(ask.domain)
            group = node_group(source, ask)
            if not group.answers and not group.texts:
                return Answer()
            return Answer(groups=(group,))
        found = healthy(source, only_passing=self._config.only_passing)
        return self._of_instances(found, ask, shuffled=True)

    def _of_instances(
        self, found: Sequence[CheckServiceNode], ask: Ask, *, shuffled: bool
    ) -> Answer:
        if not found:
            return self._no_name(ask.domain)
        groups = service_groups(found, ask)
        if not groups:
            return Answer(authority=(self._soa(ask.domain),))
        return Answer(groups=groups, shuffled=shuffled)

    async def _of_query(
        self, request: Request, lookup: QueryLookup, domain: str, *, client: str
    ) -> Answer:
        subnet = request.edns.subnet if request.edns is not None else None
        call = self._lookups.query_request(lookup, subnet.address if subnet is not None else client)
        reply = await self._lookups.call(_EXECUTE, call)
        config, ask = self._config, self._ask(request, lookup, domain)
        dc = reply.datacenter or config.datacenter
        ask = replace(
            ask,
            dc=dc,
            ttl=self._query_ttl(reply.dns.ttl, reply.service),
            wan=config.translate_wan_addrs and dc != config.datacenter,
        )
        answer = self._of_instances(reply.nodes or (), ask, shuffled=False)
        if any(group.host for group in answer.groups):
            answer = replace(answer, groups=await self._complete(request, answer.groups))
        return replace(answer, is_local=True)

    def _query_ttl(self, text: str, service: str) -> int:
        if not text:
            return self._config.ttl_of(service)
        try:
            return max(0, parse_duration(text) // SECOND)
        except ValueError:
            return 0

    def _of_itself(self, request: Request, packed: bytes) -> Answer:
        record = records.address(QUESTION, packed, int(self._config.node_ttl))
        if request.type in {record.type, records.ANY}:
            return Answer(groups=(Group((record,)),))
        return Answer(extra=(record,))

    def _no_name(self, domain: str) -> Answer:
        return Answer(NAME_ERROR, authority=(self._soa(domain),))

    def _soa(self, domain: str) -> Record:
        config = self._config
        times = (config.soa_refresh, config.soa_retry, config.soa_expire, config.soa_min_ttl)
        return records.soa(domain, serial=int(self._wall()), times=times, ttl=config.soa_min_ttl)

    async def _of_domain(self, domain: str, kind: int) -> Answer:
        """Start of the domain, and three of its servers with their addresses."""
        found: Sequence[CheckServiceNode] = ()
        try:
            call = self._lookups.service_request(ServiceLookup("", CONSUL_SERVICE))
            reply = await self._lookups.call(_SERVICE_NODES, call)
            found = healthy(reply.nodes, only_passing=self._config.only_passing)
        except IsthmusError as error:
            logger.debug("no name servers in an answer: %s", error)
        servers, addresses = self._name_servers(found, domain)
        if kind == records.NS:
            groups = tuple([Group((record,)) for record in servers])
            return Answer(groups=groups, extra=tuple(addresses))
        start = Group((self._soa(domain),))
        return Answer(groups=(start,), authority=tuple(servers), extra=tuple(addresses))

    def _name_servers(
        self, found: Sequence[CheckServiceNode], domain: str
    ) -> tuple[list[Record], list[Record]]:
        config, owner = self._config, encode_name(domain)
        ttl = int(config.node_ttl)
        ask = Ask(domain, records.ANY, domain, config.datacenter, ttl, texts=False)
        servers: list[Record] = []
        addresses: list[Record] = []
        for one in self._rng.sample(found, k=len(found)):
            node = one.node
            if node is None or len(servers) == NAME_SERVERS_MAX:
                continue
            target = encode_name(f"{node.node}.node.{config.datacenter}.{domain}".lower())
            if owner is None or target is None or _BAD_NODE_NAME & set(node.node):
                continue
            servers.append(records.ns(owner, target, ttl))
            addresses += [
                Record(target, record.type, record.body, record.target)
                for record in node_group(node, ask).answers
                if record.type != records.TXT
            ]
        return servers, addresses

    # Host names -----------------------------------------------------------------------------------

    async def _complete(
        self, request: Request, groups: Sequence[Group], depth: int = ALIAS_DEPTH_MAX
    ) -> tuple[Group, ...]:
        """Groups with the addresses of the host names in them.

        If other instances have addresses, names for the service are not shown, and not resolved.
        """
        has_direct = any(not group.is_alias for group in groups)
        return tuple(
            [
                group
                if not group.host or (group.is_alias and has_direct)
                else await self._resolve(request, group, depth)
                for group in groups
            ]
        )

    async def _resolve(self, request: Request, group: Group, depth: int) -> Group:
        found = await self._host_records(request, group.host, depth)
        if request.edns is None:
            found = found[:ALIAS_RECORDS_MAX]
        found = [records.with_ttl_of(record, group.answers[0]) for record in found]
        if request.type == records.SRV:
            return replace(group, extra=tuple(found))
        if group.answers[0].type != records.CNAME:
            return group
        return replace(group, answers=(group.answers[0], *found, *group.answers[1:]))

    async def _host_records(self, request: Request, host: str, depth: int) -> list[Record]:
        """CNAME, A and AAAA records that a host name leads to."""
        labels = tuple(host.rstrip(".").lower().split("."))
        inside = strip_domain(labels, self._config.domains)
        if inside is None:
            six = request.type == records.AAAA
            if self._recursor is None:
                return []
            return await self._recursor.addresses_of(host, six=six)
        if depth < 1:
            logger.debug("names of services lead in a circle or too far: %s", host)
            return []
        lookup = read_name(inside[0], srv=False)
        if not isinstance(lookup, ServiceLookup | NodeLookup | AddressLookup):
            return []
        kind = request.type if request.type in {records.A, records.AAAA} else records.ANY
        inner = replace(request, labels=labels, type=kind)
        if isinstance(lookup, AddressLookup):
            answer = self._of_itself(inner, lookup.address)
        else:
            answer = await self._inner(inner, lookup, inside[1], depth - 1)
        owner = encode_name(host)
        return [
            Record(record.owner or owner or b"", record.type, record.body, record.target)
            for group in answer.groups
            for record in group.answers
            if record.type in {records.A, records.AAAA, records.CNAME}
        ]

    async def _inner(
        self, request: Request, lookup: ServiceLookup | NodeLookup, domain: str, depth: int
    ) -> Answer:
        ask = self._ask(request, lookup, domain)
        reply = await self._lookups.call(*self._call(lookup))
        answer = self._make(lookup, ask, _source(lookup, reply))
        groups = await self._complete(request, answer.groups, depth)
        direct = tuple([group for group in groups if not group.is_alias])
        return replace(answer, groups=direct or groups[:1])

    # Addresses ------------------------------------------------------------------------------------

    async def _of_address(self, request: Request) -> Answer | None:
        """The node, else a service, that has an address; None when neither is known."""
        address = read_reverse(request.labels)
        if address is None or request.type not in {records.PTR, records.ANY}:
            return None
        config = self._config
        try:
            reply = await self._lookups.call("Catalog.ListNodes", self._lookups.nodes_request())
            name = self._node_at(reply.nodes or (), address)
            if not name:
                call = self._lookups.address_request(address)
                found = await self._lookups.call("Catalog.ServiceNodes", call)
                names = [row.service_name for row in found.service_nodes or ()]
                name = f"{names[0]}.service.{config.datacenter}.{config.domain}" if names else ""
        except IsthmusError as error:
            if self._recursor is None:
                raise
            logger.debug("address %s was not looked up: %s", address, error)
            return None
        target = encode_name(name) if name else None
        if target is None:
            return None
        return Answer(groups=(Group((records.ptr(QUESTION, target, 0),)),))

    def _node_at(self, nodes: Sequence[Node], address: str) -> str:
        """Name of the node with an address; empty for none."""
        source, names = self._reverse
        if source is not nodes:
            config = self._config
            names = {}
            for node in nodes:
                name = f"{node.node}.node.{node.datacenter or config.datacenter}.{config.domain}"
                names.setdefault(pack(node.address), name)
            self._reverse = (nodes, names)
        packed = pack(address)
        return names.get(packed, "") if packed is not None else ""

    # What is kept ---------------------------------------------------------------------------------

    def _refresh(self, entry: _Entry, reply: Any) -> bool:
        """Bring an entry up to date; whether it can be kept."""
        source = _source(entry.lookup, reply)
        if source is entry.source or source == entry.source:
            if entry.answer.rcode:
                entry.answer = self._no_name(entry.ask.domain)  # Its serial is the time.
            return True
        answer = self._make(entry.lookup, entry.ask, source)
        if answer.rcode != entry.answer.rcode or not _is_kept(answer):
            return False
        self._kept += len(answer.groups) - len(entry.answer.groups)
        entry.source, entry.answer = source, answer
        self._make_room()
        return True

    def _keep(self, key: object, entry: _Entry) -> None:
        if key is None:
            return
        self._forget(key)
        if entry.answer.rcode:
            self._denials[key] = entry
            if len(self._denials) > DENIALS_MAX:
                self._forget(next(iter(self._denials)))
            return
        self._entries[key] = entry
        self._kept += len(entry.answer.groups)
        self._make_room()

    def _make_room(self) -> None:
        """Forget the oldest entries while there are too many."""
        while len(self._entries) > ENTRIES_MAX or self._kept > INSTANCES_KEPT_MAX:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: object) -> None:
        self._denials.pop(key, None)
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._kept -= len(entry.answer.groups)

    def overloaded(self, data: bytes) -> bytes:
        """What is answered to a request when too many wait."""
        self.failure_count += 1
        return failure(data)


def _is_kept(answer: Answer) -> bool:
    """Whether an answer depends on nothing but what was looked up, and comes often enough."""
    if not answer.groups:
        return bool(answer.rcode)
    return not any(group.host for group in answer.groups)


def _source(lookup: Lookup, reply: Any) -> Any:
    """The part of a reply that its answer is made from."""
    if isinstance(lookup, ServiceLookup):
        return reply.nodes or ()
    return reply.node_services.node if reply.node_services is not None else None
