"""The catalog: against a plain model, and rule by rule."""

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from isthmus.errors import RequestError
from isthmus.model.catalog import (
    CheckServiceNode,
    ConnectProxyConfig,
    DeregisterRequest,
    HealthCheck,
    Node,
    NodeService,
    RegisterRequest,
    ServiceConnect,
    Weights,
)
from isthmus.store.answer import Answer
from isthmus.store.store import Store
from support.stores import Driven, Sleeper

NODE_NAMES = ("Alpha", "beta", "gamma")
SERVICE_IDS = ("web", "web-2", "db")
SERVICE_NAMES = ("web", "db", "Proxy")
CHECK_IDS = ("serfHealth", "c1", "c2")
NODES = st.sampled_from(NODE_NAMES)
IDS = {
    name: f"{number}" * 8 + "-0000-0000-0000-000000000000"
    for number, name in enumerate(NODE_NAMES, 1)
}


def plain(row: Any) -> Any:
    """A record without its indexes."""
    return msgspec.structs.replace(row, create_index=0, modify_index=0)


def instance(item: CheckServiceNode) -> Any:
    return (plain(item.node), plain(item.service), [plain(check) for check in item.checks or ()])


def make_register(
    node: str = "alpha",
    *,
    address: str = "10.0.0.1",
    service: NodeService | None = None,
    checks: tuple[HealthCheck, ...] = (),
    node_id: str = "",
) -> RegisterRequest:
    filled = tuple(msgspec.structs.replace(check, node=node) for check in checks)
    return RegisterRequest(
        node=node, id=node_id, address=address, datacenter="dc1", service=service, checks=filled
    )


def make_service(name: str = "web", service_id: str = "", **changes: Any) -> NodeService:
    return NodeService(
        id=service_id or name, service=name, weights=Weights(passing=1, warning=1), **changes
    )


PRECISE = {"health", "connect", "kind", "catalog", "checks"}
"""Reads that wake for nothing but a change of what they show, also of what is not there."""


class CatalogMachine(RuleBasedStateMachine):
    """Registrations and deregistrations against dicts of rows without indexes."""

    def __init__(self) -> None:
        super().__init__()
        self.driven = Driven()
        self.nodes: dict[str, Node] = {}
        self.services: dict[tuple[str, str], NodeService] = {}
        self.checks: dict[tuple[str, str], HealthCheck] = {}
        self.seen: dict[str, int] = {}

    @rule(
        node=NODES,
        address=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
        service_id=st.none() | st.sampled_from(SERVICE_IDS),
        name=st.sampled_from(SERVICE_NAMES),
        tag=st.sampled_from(["a", "b"]),
        check_id=st.none() | st.sampled_from(CHECK_IDS),
        of_service=st.none() | st.sampled_from(SERVICE_IDS),
        status=st.sampled_from(["passing", "critical"]),
    )
    def register(
        self,
        node: str,
        address: str,
        service_id: str | None,
        name: str,
        tag: str,
        check_id: str | None,
        of_service: str | None,
        status: str,
    ) -> None:
        service = None
        if service_id is not None:
            proxy = ConnectProxyConfig(destination_service_name="web")
            kind = "connect-proxy" if name == "Proxy" else ""
            service = make_service(
                name,
                service_id,
                tags=(tag,),
                kind=kind,
                proxy=proxy if kind else ConnectProxyConfig(),
            )
        checks: tuple[HealthCheck, ...] = ()
        if check_id is not None:
            check = HealthCheck(
                check_id=check_id, name=check_id, status=status, service_id=of_service or ""
            )
            checks = (check,)
        nodes, services = dict(self.nodes), dict(self.services)
        nodes[node] = Node(node=node, id=IDS[node], address=address, datacenter="dc1")
        if service is not None:
            services[node, service.id] = service
        wanted = {
            key: msgspec.structs.replace(
                check, service_name=service.service, service_tags=service.tags
            )
            if service is not None and key[0] == node and check.service_id == service.id
            else check
            for key, check in self.checks.items()
        }
        refused = False
        for check in checks:
            owner = services.get((node, of_service or ""))
            refused = bool(of_service) and owner is None
            wanted[node, check.check_id] = msgspec.structs.replace(
                check,
                node=node,
                service_name=owner.service if owner else "",
                service_tags=owner.tags if owner else None,
            )
        command = make_register(
            node, address=address, service=service, checks=checks, node_id=IDS[node]
        )
        if refused:
            with pytest.raises(RequestError, match="Missing service registration"):
                self.driven.execute(command)
            return
        self.change(command, nodes, services, wanted)

    @rule(node=NODES, service_id=st.sampled_from(SERVICE_IDS))
    def deregister_service(self, node: str, service_id: str) -> None:
        services, checks = dict(self.services), dict(self.checks)
        if services.pop((node, service_id), None) is not None:
            for key, check in self.checks.items():
                if key[0] == node and check.service_id == service_id:
                    del checks[key]
        command = DeregisterRequest(node=node.upper(), service_id=service_id)
        self.change(command, dict(self.nodes), services, checks)

    @rule(node=NODES, check_id=st.sampled_from(CHECK_IDS))
    def deregister_check(self, node: str, check_id: str) -> None:
        checks = dict(self.checks)
        checks.pop((node, check_id), None)
        command = DeregisterRequest(node=node, check_id=check_id)
        self.change(command, dict(self.nodes), dict(self.services), checks)

    @rule(node=NODES)
    def deregister_node(self, node: str) -> None:
        nodes = {key: row for key, row in self.nodes.items() if key != node}
        services = {key: row for key, row in self.services.items() if key[0] != node}
        checks = {key: row for key, row in self.checks.items() if key[0] != node}
        self.change(DeregisterRequest(node=node), nodes, services, checks)

    def change(
        self,
        command: Any,
        nodes: dict[str, Node],
        services: dict[tuple[str, str], NodeService],
        checks: dict[tuple[str, str], HealthCheck],
    ) -> None:
        """Execute; check that what is read changes, wakes and keeps its identity as it should."""
        store = self.driven.store
        before = views(store)
        index = store.index
        sleepers = {what: Sleeper(store, answer.topics) for what, answer in before.items()}
        self.driven.execute(command)
        changed = (nodes, services, checks) != (self.nodes, self.services, self.checks)
        assert store.index == index + changed
        self.nodes, self.services, self.checks = nodes, services, checks
        for what, answer in views(store).items():
            woken, old = sleepers[what].stop(), before[what]
            if answer.value != old.value:
                assert woken, what
                assert answer.changed == store.index, what
            elif what.split()[0] in PRECISE:
                assert not woken, what
                if old.value:
                    assert answer.value is old.value or what.startswith("checks"), what
                    assert answer.changed == old.changed, what

    @invariant()
    def reads_agree(self) -> None:
        catalog = self.driven.store.catalog
        for name in SERVICE_NAMES:
            found = catalog.check_service_nodes(name.upper())
            assert list(map(instance, found.value)) == self.instances(name)
            assert len(catalog.service_nodes(name).value) == len(found.value)
        proxies = [list(map(instance, catalog.connect_service_nodes("web").value))]
        assert proxies == [self.instances("Proxy")]
        assert [plain(node) for node in catalog.nodes().value] == sorted(
            self.nodes.values(), key=lambda node: node.node.lower()
        )
        tags: dict[str, set[str]] = {}
        for service in self.services.values():
            tags.setdefault(service.service, set()).update(service.tags or ())
        assert catalog.services().value == {
            name: tuple(sorted(found)) for name, found in sorted(tags.items())
        }
        for node in NODE_NAMES:
            wanted = sorted(key[1] for key in self.services if key[0] == node)
            services = catalog.node_services(node).value
            assert (services is not None) == (node in self.nodes)
            assert [row.id for row in services[1]] == wanted if services else not wanted
            assert [plain(row) for row in catalog.node_checks(node).value] == [
                self.checks[key] for key in sorted(self.checks, key=folded) if key[0] == node
            ]
        for what, answer in views(self.driven.store).items():
            assert answer.index >= self.seen.get(what, 0), what
            assert answer.index >= answer.changed
            self.seen[what] = answer.index

    def instances(self, name: str) -> list[Any]:
        found = []
        for key in sorted(self.services, key=folded):
            if self.services[key].service == name:
                checks = [
                    self.checks[at]
                    for of_service in ("", key[1])
                    for at in sorted(self.checks, key=folded)
                    if at[0] == key[0] and self.checks[at].service_id == of_service
                ]
                found.append((self.nodes[key[0]], self.services[key], checks))
        return found

    def teardown(self) -> None:
        again = views(self.driven.reloaded())
        for what, answer in views(self.driven.store).items():
            assert again[what].value == answer.value, what
            assert again[what].index >= answer.index, what


def folded(key: tuple[str, str]) -> tuple[str, str]:
    return key[0].lower(), key[1].lower()


def views(store: Store) -> dict[str, Answer[Any]]:
    """Everything that can be read, by what it is."""
    catalog = store.catalog
    found: dict[str, Answer[Any]] = {
        "nodes": catalog.nodes(),
        "services": catalog.services(),
        "dump": catalog.dump(),
        "kind": catalog.dump_kind("connect-proxy"),
        "state critical": catalog.checks_in_state("critical"),
        "state any": catalog.checks_in_state("any"),
    }
    for name in SERVICE_NAMES:
        found[f"health {name}"] = catalog.check_service_nodes(name)
        found[f"catalog {name}"] = catalog.service_nodes(name)
        found[f"connect {name}"] = catalog.connect_service_nodes(name)
        found[f"checks {name}"] = catalog.service_checks(name)
    for node in NODE_NAMES:
        found[f"node {node}"] = catalog.node(node)
        found[f"node services {node}"] = catalog.node_services(node)
        found[f"node checks {node}"] = catalog.node_checks(node)
    return found


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(max_examples=80, stateful_step_count=20, deadline=None)


# Rules ----------------------------------------------------------------------------------------


def test_same_registration_again_changes_nothing() -> None:
    driven = Driven()
    check = HealthCheck(check_id="c", name="c", service_id="web", status="passing")
    command = make_register(service=make_service(tags=("a",)), checks=(check,))
    driven.execute(command)
    first = driven.store.catalog.check_service_nodes("web")
    index = driven.store.index
    driven.execute(command)
    assert driven.store.index == index
    assert driven.store.catalog.check_service_nodes("web") is first


def test_service_gets_consuls_weights() -> None:
    driven = Driven()
    driven.execute(make_register(service=NodeService(id="web", service="web")))
    (item,) = driven.store.catalog.check_service_nodes("web").value
    assert item.service is not None
    assert item.service.weights == Weights(passing=1, warning=1)


def test_check_without_status_is_critical() -> None:
    driven = Driven()
    driven.execute(make_register(checks=(HealthCheck(check_id="c"),)))
    (check,) = driven.store.catalog.node_checks("alpha").value
    assert check.status == "critical"


def test_native_service_accepts_mesh_traffic_itself() -> None:
    driven = Driven()
    native = make_service(connect=ServiceConnect(native=True))
    driven.execute(make_register(service=native))
    found = driven.store.catalog.connect_service_nodes("web").value
    assert [item.service.service for item in found if item.service] == ["web"]


def test_node_with_a_known_id_is_renamed() -> None:
    driven = Driven()
    driven.execute(make_register("old", node_id=IDS["Alpha"], service=make_service()))
    driven.execute(make_register("new", node_id=IDS["Alpha"]))
    assert [node.node for node in driven.store.catalog.nodes().value] == ["new"]
    assert driven.store.catalog.check_service_nodes("web").value == ()
    (node,) = driven.store.catalog.nodes().value
    assert (node.create_index, node.modify_index) == (2, 3)


def test_node_whose_name_changes_case_keeps_its_services() -> None:
    driven = Driven()
    driven.execute(make_register("old", node_id=IDS["Alpha"], service=make_service()))
    driven.execute(make_register("OLD", node_id=IDS["Alpha"]))
    (item,) = driven.store.catalog.check_service_nodes("web").value
    assert item.node is not None
    assert item.node.node == "OLD"


def test_name_of_a_living_node_is_not_given_away() -> None:
    driven = Driven()
    alive = HealthCheck(check_id="serfHealth", status="passing")
    driven.execute(make_register("a", node_id=IDS["Alpha"], checks=(alive,)))
    driven.execute(make_register("b", node_id=IDS["beta"]))
    text = (
        f'failed inserting node: Error while renaming Node ID: "{IDS["beta"]}" (10.0.0.1): '
        f"Node name A is reserved by node {IDS['Alpha']} with name a (10.0.0.1)"
    )
    with pytest.raises(RequestError) as caught:
        driven.execute(make_register("A", node_id=IDS["beta"]))
    assert str(caught.value) == text
    assert [node.node for node in driven.store.catalog.nodes().value] == ["a", "b"]


@pytest.mark.parametrize(
    "check",
    [
        HealthCheck(check_id="serfHealth", status="critical"),
        HealthCheck(check_id="ping", status="passing"),
    ],
)
def test_name_of_a_node_that_is_dead_or_no_agent_may_be_taken(check: HealthCheck) -> None:
    driven = Driven()
    driven.execute(make_register("a", node_id=IDS["Alpha"], checks=(check,)))
    driven.execute(make_register("a", node_id=IDS["beta"]))
    (node,) = driven.store.catalog.nodes().value
    assert node.id == IDS["beta"]


def test_node_without_id_may_get_one() -> None:
    driven = Driven()
    driven.execute(make_register("a"))
    driven.execute(make_register("a", node_id=IDS["beta"]))
    (node,) = driven.store.catalog.nodes().value
    assert (node.id, node.create_index) == (IDS["beta"], 2)


def test_node_is_found_by_its_id() -> None:
    driven = Driven()
    driven.execute(make_register("a", node_id=IDS["Alpha"]))
    found = driven.store.catalog.node_services(IDS["Alpha"].upper()).value
    assert found is not None
    assert found[0].node == "a"


def test_refused_registration_leaves_no_trace() -> None:
    driven = Driven()
    lost = HealthCheck(check_id="c", service_id="nope")
    with pytest.raises(RequestError) as caught:
        driven.execute(make_register("x", service=make_service(), checks=(lost,)))
    assert str(caught.value) == ('failed inserting check: Missing service registration on node "x"')
    assert set(driven.store.row_counts().values()) == {0}
    assert driven.rows == {}


def test_check_without_an_id_is_refused() -> None:
    with pytest.raises(RequestError, match="failed health check lookup: index error"):
        Driven().execute(make_register("x", checks=(HealthCheck(status="passing"),)))


def test_check_of_another_node_is_refused() -> None:
    command = msgspec.structs.replace(
        make_register("x"), checks=(HealthCheck(node="y", check_id="c"),)
    )
    with pytest.raises(RequestError, match='check node "y" does not match node "x"'):
        Driven().execute(command)


def test_address_stays_when_the_node_is_not_to_be_updated() -> None:
    driven = Driven()
    driven.execute(make_register("x"))
    command = msgspec.structs.replace(
        make_register("x", address="", service=make_service()), skip_node_update=True
    )
    driven.execute(command)
    (node,) = driven.store.catalog.nodes().value
    assert node.address == "10.0.0.1"


def test_commands_of_one_batch_see_each_other() -> None:
    driven = Driven()
    check = HealthCheck(node="x", check_id="c", service_id="web")
    driven.execute(
        make_register("x"),
        make_register("x", service=make_service()),
        msgspec.structs.replace(make_register("x"), check=check),
        DeregisterRequest(node="x", service_id="web"),
        make_register("x", service=make_service("db")),
    )
    counts = driven.store.row_counts()
    assert (counts["nodes"], counts["services"], counts["checks"]) == (1, 1, 0)
    assert driven.store.index == 6


def test_missing_service_wakes_only_when_it_comes() -> None:
    driven = Driven()
    missing = driven.store.catalog.check_service_nodes("web")
    assert (missing.changed, missing.shown_index) == (0, 1)
    sleeper = Sleeper(driven.store, missing.topics)
    driven.execute(make_register("x"))
    driven.execute(make_register("x", service=make_service("db")))
    driven.execute(DeregisterRequest(node="x", service_id="db"))
    assert not sleeper.woken
    driven.execute(make_register("x", service=make_service()))
    assert sleeper.stop()


def test_index_of_a_missing_service_is_that_of_the_last_removal_of_any() -> None:
    driven = Driven()
    catalog = driven.store.catalog
    driven.execute(make_register("x", service=make_service("db")))
    driven.execute(DeregisterRequest(node="x", service_id="db"))
    gone_at = driven.store.index
    driven.execute(make_register("y"))
    for read in (catalog.check_service_nodes, catalog.service_nodes):
        assert (read("web").index, read("web").changed) == (gone_at, gone_at)
    driven.execute(make_register("x", service=make_service()))
    assert catalog.check_service_nodes("web").index == driven.store.index > gone_at


def test_reader_of_instances_without_checks_sleeps_through_changes_of_checks() -> None:
    driven = Driven()
    catalog = driven.store.catalog
    driven.execute(make_register("x", service=make_service()))
    before = catalog.service_nodes("web")
    sleeper = Sleeper(driven.store, before.topics)
    driven.execute(make_register("x", checks=(HealthCheck(check_id="c", service_id="web"),)))
    driven.execute(make_register("x", checks=(HealthCheck(check_id="serfHealth"),)))
    assert not sleeper.woken
    assert catalog.service_nodes("web") is before
    driven.execute(make_register("x", address="10.0.0.9"))
    assert sleeper.stop()
    assert catalog.service_nodes("web").index == driven.store.index


def test_reader_of_a_services_checks_sleeps_through_those_of_its_node() -> None:
    driven = Driven()
    driven.execute(make_register("x", service=make_service()))
    sleeper = Sleeper(driven.store, driven.store.catalog.service_checks("web").topics)
    driven.execute(make_register("x", checks=(HealthCheck(check_id="serfHealth"),)))
    driven.execute(make_register("x", address="10.0.0.9"))
    assert not sleeper.woken
    driven.execute(make_register("x", checks=(HealthCheck(check_id="c", service_id="web"),)))
    assert sleeper.stop()


def test_reader_of_an_id_wakes_when_its_node_comes_under_any_name() -> None:
    driven = Driven()
    sleeper = Sleeper(driven.store, driven.store.catalog.node(IDS["beta"]).topics)
    driven.execute(make_register("b", node_id=IDS["beta"]))
    assert sleeper.stop()
    assert driven.store.catalog.node(IDS["beta"]).changed == driven.store.index


def test_index_of_a_node_that_is_not_there_stays_while_others_come() -> None:
    driven = Driven()
    catalog = driven.store.catalog
    driven.execute(make_register("x"))
    before = catalog.node_services("y")
    sleeper = Sleeper(driven.store, before.topics)
    driven.execute(make_register("z"))
    assert catalog.node_services("y").changed == before.changed == 0
    driven.execute(DeregisterRequest(node="z"))
    assert not sleeper.woken
    driven.execute(make_register("y"))
    assert sleeper.stop()
    assert catalog.node_services("y").changed == driven.store.index
    driven.execute(DeregisterRequest(node="y"))
    assert catalog.node_services("y").changed == driven.store.index


def test_removal_of_a_service_moves_its_index_forward() -> None:
    driven = Driven()
    driven.execute(make_register("x", service=make_service()))
    check = HealthCheck(check_id="c", service_id="web")
    driven.execute(make_register("x", checks=(check,)))
    before = driven.store.catalog.check_service_nodes("web").index
    driven.execute(DeregisterRequest(node="x", service_id="web"))
    after = driven.store.catalog.check_service_nodes("web")
    assert (after.value, after.index) == ((), before + 1)


def test_services_on_nodes_with_metadata() -> None:
    driven = Driven()
    web = make_service(tags=("a",))
    driven.execute(
        msgspec.structs.replace(make_register("x", service=web), node_meta={"rack": "1"}),
        make_register("y", service=make_service("db")),
    )
    catalog = driven.store.catalog
    assert catalog.services_on({"rack": "1"}).value == {"web": ("a",)}
    assert catalog.services_on({"rack": "2"}).value == {}
    assert [row.name for row in catalog.service_list().value] == ["db", "web"]


def test_instances_at_an_address() -> None:
    driven = Driven()
    driven.execute(
        make_register("x", service=make_service()),
        make_register("y", service=make_service("db", address="10.0.0.9")),
    )
    found = driven.store.catalog.instances_at("10.0.0.9").value
    assert [row.service_name for row in found] == ["db"]
    found = driven.store.catalog.instances_at("10.0.0.1").value
    assert [row.service_name for row in found] == ["web"]


def test_plain_services_are_those_without_a_kind() -> None:
    driven = Driven()
    driven.execute(
        make_register("x", service=make_service()),
        make_register("x", service=make_service("gw", kind="mesh-gateway", port=8443)),
    )
    found = driven.store.catalog.dump_kind("").value
    assert [item.service.id for item in found if item.service] == ["web"]


def test_index_of_a_kind_never_seen_lets_a_reader_block() -> None:
    driven = Driven()
    driven.execute(make_register("x", service=make_service()))
    answer = driven.store.catalog.dump_kind("mesh-gateway")
    assert (answer.value, answer.changed, answer.shown_index) == ((), 0, 1)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (IDS["Alpha"][:4], "a"),
        (IDS["Alpha"][:9].upper(), "a"),
        (IDS["Alpha"][:1], None),
        ("", None),
        ("zz", None),
    ],
)
def test_node_is_found_by_what_only_its_id_begins_with(name: str, found: str | None) -> None:
    driven = Driven()
    driven.execute(make_register("a", node_id=IDS["Alpha"]))
    driven.execute(make_register("b", node_id=IDS["beta"]))
    node = driven.store.catalog.node(name).value
    assert (node.node if node is not None else None) == found


def test_beginning_of_several_ids_finds_none() -> None:
    driven = Driven()
    driven.execute(make_register("a", node_id=IDS["Alpha"]))
    driven.execute(make_register("b", node_id=IDS["Alpha"][:-1] + "1"))
    assert driven.store.catalog.node(IDS["Alpha"][:8]).value is None
