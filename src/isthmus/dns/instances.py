"""From instances of a service, or a node, to what each adds to an answer.

Source: protocol/cli-config-dns.md §3.2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isthmus.dns import records
from isthmus.dns.addresses import Family, node_address, pack, service_address, service_port
from isthmus.dns.records import Record, encode_name
from isthmus.model.catalog import (
    CRITICAL,
    PASSING,
    WARNING,
    CheckServiceNode,
    HealthCheck,
    Node,
    NodeService,
)

_FAMILIES = {records.A: Family.V4, records.AAAA: Family.V6}
_WITH_ADDRESSES = frozenset({records.A, records.AAAA, records.ANY, records.SRV})
QUESTION = b""
"""Owner of what is about the name that was asked for."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked, and how answers about it look.

    Attributes:
        name: That was asked for, in lower case, without the dot at its end.
        type: Of the records wanted.
        domain: Of ours that the name is in.
        dc: Datacenter that the answer is about.
        ttl: Seconds.
        wan: Whether addresses are shown as seen from another datacenter.
        texts: Whether a node's metadata go along.
    """

    name: str
    type: int
    domain: str
    dc: str
    ttl: int = 0
    wan: bool = False
    texts: bool = True

    @property
    def family(self) -> Family:
        """Addresses that are asked for."""
        return _FAMILIES.get(self.type, Family.ANY)


@dataclass(frozen=True, slots=True)
class Group:
    """What one instance adds to an answer; groups may stand in any order.

    Attributes:
        answers: Records for ANSWER.
        extra: Addresses of their targets, for ADDITIONAL.
        texts: Metadata, for ADDITIONAL; left out when there is no room for everything.
        host: Name whose addresses are to be found elsewhere, and then belong to the group.
    """

    answers: tuple[Record, ...]
    extra: tuple[Record, ...] = ()
    texts: tuple[Record, ...] = ()
    host: str = ""

    @property
    def is_alias(self) -> bool:
        """Whether its answer is another name."""
        return self.answers[0].type == records.CNAME


def healthy(
    instances: Iterable[CheckServiceNode] | None, *, only_passing: bool
) -> list[CheckServiceNode]:
    """Instances without a critical check, or with passing ones only."""
    if only_passing:
        return [one for one in instances or () if _all(one, {PASSING})]
    return [
        one
        for one in instances or ()
        if not any(check.status == CRITICAL for check in one.checks or ())
    ]


def _all(instance: CheckServiceNode, wanted: set[str]) -> bool:
    return all(check.status in wanted for check in instance.checks or ())


def service_groups(instances: Sequence[CheckServiceNode], ask: Ask) -> tuple[Group, ...]:
    """What instances add to an answer, those that add the same only once.

    Of names for the service itself (CNAME) there may be more than an answer can have: the caller
    picks one if there is nothing else.
    """
    groups: dict[object, Group] = {}
    for instance in instances:
        node, service = instance.node, instance.service
        if node is None or service is None:
            continue
        group = _group(node, service, instance.checks or (), ask)
        if group is None:
            continue
        if ask.type == records.SRV:
            address = service_address(service, Family.ANY, wan=ask.wan)
            key: object = (node.node, address, service_port(service, wan=ask.wan))
        else:
            key = group.answers[0].body
        groups.setdefault(key, group)
    return tuple(groups.values())


def _group(
    node: Node, service: NodeService, checks: Sequence[HealthCheck], ask: Ask
) -> Group | None:
    if ask.type not in _WITH_ADDRESSES:
        return None
    own = service_address(service, ask.family, wan=ask.wan)
    of_node = node_address(node, ask.family, wan=ask.wan)
    if not own and service_address(service, Family.ANY, wan=ask.wan):
        return None  # It has an address, of the other family.
    if own and pack(own) is None and own.rstrip(".").lower() == ask.name and pack(of_node):
        own = ""  # Its address is the name that is asked for: that of its node is meant.
    packed = pack(own or of_node)
    if packed is None:
        return _external(own or of_node, node, service, checks, ask)
    if ask.family not in {Family.ANY, Family(len(packed))}:
        return None
    if ask.type != records.SRV:
        return Group((records.address(QUESTION, packed, ask.ttl),))
    if own or of_node != node.address:
        target = encode_name(f"{packed.hex()}.addr.{ask.dc}.{ask.domain}")
    else:
        target = node_name(node, ask)
    if target is None:
        return None
    return Group(
        (_srv(service, checks, ask, target),),
        (records.address(target, packed, ask.ttl),),
        _texts(node, ask),
    )


def _external(
    host: str, node: Node, service: NodeService, checks: Sequence[HealthCheck], ask: Ask
) -> Group | None:
    """A service somewhere else, known by a host name."""
    target = encode_name(host) if host else None
    if target is None:
        return None
    if ask.type == records.SRV:
        answer = _srv(service, checks, ask, target)
        return Group((answer,), (), _texts(node, ask), host)
    return Group((records.cname(QUESTION, target, ask.ttl),), host=host)


def _srv(service: NodeService, checks: Sequence[HealthCheck], ask: Ask, target: bytes) -> Record:
    return records.srv(
        QUESTION,
        weight=weight(service, checks),
        port=service_port(service, wan=ask.wan),
        target=target,
        ttl=ask.ttl,
    )


def _texts(node: Node, ask: Ask) -> tuple[Record, ...]:
    if not ask.texts or not node.meta:
        return ()
    owner = node_name(node, ask)
    return tuple(records.node_texts(owner, node.meta.items(), ask.ttl)) if owner else ()


def node_name(node: Node, ask: Ask) -> bytes | None:
    """``NODE.node.DC.DOMAIN``, encoded; None when the node's name does not fit into a name."""
    return encode_name(f"{node.node}.node.{ask.dc}.{ask.domain}")


def weight(service: NodeService, checks: Iterable[HealthCheck]) -> int:
    """Weight of an instance by the worst of its checks and its node's."""
    states = {check.status for check in checks if check.service_name in {"", service.service}} or {
        PASSING
    }
    passing, warning = 1, 1
    if service.weights is not None:
        passing, warning = service.weights.passing, service.weights.warning
    if not states <= {PASSING, WARNING}:
        return 0
    return warning if WARNING in states else passing


def node_group(node: Node, ask: Ask) -> Group:
    """What a node adds to an answer about itself; its texts are for ADDITIONAL or for ANSWER."""
    texts = tuple(records.node_texts(QUESTION, (node.meta or {}).items(), ask.ttl))
    if ask.type == records.TXT:
        return Group(texts)
    shown = node_address(node, ask.family, wan=ask.wan)
    packed, host = pack(shown), ""
    found: tuple[Record, ...] = ()
    if packed is not None and ask.family in {Family.ANY, Family(len(packed))}:
        found = (records.address(QUESTION, packed, ask.ttl),)
    elif packed is None and shown:
        target = encode_name(shown)
        if target is not None:
            found, host = (records.cname(QUESTION, target, ask.ttl),), shown
    if ask.type == records.ANY:
        return Group((*found, *texts), host=host)
    return Group(found, (), texts if ask.texts else (), host)
