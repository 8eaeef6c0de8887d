"""What users and the configuration register, kept over restarts, replaced by reloads."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from isthmus.agent.local import LocalState, NodeFacts
from isthmus.agent.services import LocalServices
from isthmus.errors import InvalidRequest, RequestError
from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.catalog import ServiceConnect
from isthmus.units import Duration
from support.virtual_loop import run_virtual, settle

FACTS = NodeFacts(dc="dc1", node="n1", node_id="", address="10.0.0.1", tagged_addresses={}, meta={})
TTL: Mapping[str, Any] = {"CheckID": "c1", "Name": "alive", "TTL": "10s"}


async def unreachable(method: str, request: object) -> object:
    raise AssertionError(method)


class World:
    """A fresh start of an agent's services over one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.changes = 0
        self.local = LocalState(facts=FACTS, rpc=unreachable, rng=Random(1))
        self.services = LocalServices(
            self.local, node="n1", folder=folder, rng=Random(1), changed=self._count
        )

    def _count(self) -> None:
        self.changes += 1

    def ids(self) -> tuple[list[str], list[str]]:
        """Ids of services and of checks."""
        return sorted(self.local.services), sorted(self.local.checks)


def play(act: Callable[[World], None], folder: Path | None = None) -> None:
    async def run() -> None:
        world = World(folder)
        act(world)
        await settle()
        await world.services.close()

    run_virtual(run())


def ttl(check_id: str) -> CheckDefinition:
    return CheckDefinition(check_id=check_id, name=check_id, ttl=Duration.of(10))


def test_registration_is_kept_over_a_restart_until_it_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "services"
    web = ServiceDefinition(name="web", port=80, tags=("a",), check=ttl("c1"))

    def register(world: World) -> None:
        world.services.register(web)
        assert world.changes == 1

    def restart(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == (["web"], ["c1"])
        assert (world.local.services["web"].port, world.local.services["web"].tags) == (80, ("a",))
        assert world.services.deregister("web")
        assert not world.services.deregister("web")

    def restart_again(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == ([], [])

    for act in (register, restart, restart_again):
        play(act, folder)


def test_damaged_kept_registration_stops_no_other(tmp_path: Path) -> None:
    play(lambda world: world.services.register(ServiceDefinition(name="web")), tmp_path)
    (tmp_path / "damaged.registration").write_bytes(b"\xff\x00")

    def restart(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == (["web"], [])

    play(restart, tmp_path)


def test_configuration_is_not_kept(tmp_path: Path) -> None:
    play(lambda world: world.services.load([{"Name": "web"}], []), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reload_replaces_what_the_configuration_held_and_nothing_else() -> None:
    def act(world: World) -> None:
        world.services.load([{"Name": "old", "Checks": [TTL]}, {"Name": "both"}], [])
        world.services.register(ServiceDefinition(name="api"))
        world.services.reload([{"Name": "both", "Port": 81}, {"name": "new"}], [TTL])
        assert world.ids() == (["api", "both", "new"], ["c1"])
        assert world.local.services["both"].port == 81
        world.services.reload([], [])
        assert world.ids() == (["api"], [])

    play(act)


@pytest.mark.parametrize(
    ("services", "checks"),
    [
        ([{"Name": "new"}, {"Name": ""}], []),
        ([{"Name": "new"}, {"Name": "x", "Check": {"GRPC": "h:1", "Interval": "1s"}}], []),
        ([{"Name": "new"}, {"Name": "x", "Port": "eighty"}], []),
        ([{"Name": "new"}], [{"Name": "x", "Args": ["true"], "Interval": "1s"}]),
    ],
)
def test_mistake_in_a_reload_changes_nothing(services: Any, checks: Any) -> None:
    def act(world: World) -> None:
        world.services.load([{"Name": "old"}], [])
        with pytest.raises(InvalidRequest):
            world.services.reload(services, checks)
        assert world.ids() == (["old"], [])

    play(act)


@pytest.mark.parametrize(
    "definition",
    [
        ServiceDefinition(
            name="web", checks=(ttl("c1"), CheckDefinition(grpc="h:1", interval=Duration.of(1)))
        ),
        ServiceDefinition(name="web", connect=ServiceConnect(sidecar_service={"Port": 1})),
    ],
)
def test_what_we_cannot_run_is_refused_whole(definition: ServiceDefinition, tmp_path: Path) -> None:
    def act(world: World) -> None:
        with pytest.raises(InvalidRequest, match="not supported by this release"):
            world.services.register(definition)
        assert (world.ids(), world.changes) == (([], []), 0)

    play(act, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checks_that_are_not_named_again_stay_unless_asked() -> None:
    def act(world: World) -> None:
        first = ServiceDefinition(name="web", checks=(ttl("c1"), ttl("c2")))
        world.services.register(first)
        second = ServiceDefinition(name="web", checks=(ttl("c3"),))
        world.services.register(second)
        assert world.ids() == (["web"], ["c1", "c2", "c3"])
        world.services.register(second, replace_checks=True)
        assert world.ids() == (["web"], ["c3"])

    play(act)


def test_owner_updates_a_ttl_check() -> None:
    def act(world: World) -> None:
        world.services.register_check(ttl("c1"))
        world.services.update_check("c1", "passing", "fine")
        assert (world.local.checks["c1"].status, world.local.checks["c1"].output) == (
            "passing",
            "fine",
        )
        world.services.deregister_check("c1")
        world.services.deregister_check("c1")
        with pytest.raises(RequestError, match='CheckID "c1" does not have associated TTL'):
            world.services.update_check("c1", "passing", "fine")

    play(act)


def test_check_of_an_unknown_service_is_refused_and_not_run() -> None:
    def act(world: World) -> None:
        definition = CheckDefinition(
            name="c1", check_id="c1", service_id="nope", ttl=Duration.of(10)
        )
        with pytest.raises(RequestError, match='ServiceID "nope" does not exist'):
            world.services.register_check(definition)
        with pytest.raises(RequestError):
            world.services.update_check("c1", "passing", "")

    play(act)


def test_service_that_stays_critical_is_deregistered() -> None:
    async def run() -> None:
        world = World()
        check = CheckDefinition(
            ttl=Duration.of(10), deregister_critical_service_after=Duration.of(60)
        )
        world.services.register(ServiceDefinition(name="web", check=check))
        await asyncio.sleep(69)
        assert world.ids() == (["web"], ["service:web"])
        await asyncio.sleep(2)
        assert world.ids() == ([], [])
        await world.services.close()

    run_virtual(run())
