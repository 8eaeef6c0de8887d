"""What users and the configuration register, kept over restarts, replaced by reloads."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from isthmus.agent.checks import CheckWorld
from isthmus.agent.kept import Kept
from isthmus.agent.local import LocalState, NodeFacts
from isthmus.agent.services import LocalServices, ServicesConfig
from isthmus.errors import InvalidRequest, NotFound, RequestError
from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.catalog import ServiceConnect
from isthmus.units import Duration
from isthmus.wire import msgpack
from support.virtual_loop import now, run_virtual, settle

FACTS = NodeFacts(dc="dc1", node="n1", node_id="", address="10.0.0.1", tagged_addresses={}, meta={})
TTL: Mapping[str, Any] = {"CheckID": "c1", "Name": "alive", "TTL": "10s"}
START = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def unreachable(method: str, request: object) -> object:
    raise AssertionError(method)


async def inline(work: Callable[[], object]) -> object:
    """In place of a thread, which a virtual loop has not."""
    return work()


class World:
    """A fresh start of an agent's services over one data directory, so many seconds later."""

    def __init__(self, folder: Path | None = None, *, later: float = 0.0, **config: Any) -> None:
        self.changes = 0
        self.local = LocalState(facts=FACTS, rng=Random(1))
        self.services = LocalServices(
            CheckWorld(local=self.local, rpc=unreachable, rng=Random(1)),
            config=ServicesConfig(**config),
            kept=Kept(folder, offload=inline),
            wall=lambda: START + timedelta(seconds=later + now()),
            changed=self._count,
        )

    def _count(self) -> None:
        self.changes += 1

    def ids(self) -> tuple[list[str], list[str]]:
        """Ids of services and of checks."""
        return sorted(self.local.services), sorted(self.local.checks)

    def state(self, check_id: str) -> tuple[str, str]:
        """Status and output of a check."""
        check = self.local.checks[check_id]
        return check.status, check.output


Act = Callable[[World], Coroutine[Any, Any, None] | None]


def play(act: Act, folder: Path | None = None, **world: Any) -> None:
    async def run() -> None:
        made = World(folder, **world)
        done = act(made)
        if inspect.isawaitable(done):
            await done
        await settle()
        await made.services.close()

    run_virtual(run())


def ttl(check_id: str, seconds: float = 10.0, **fields: Any) -> CheckDefinition:
    return CheckDefinition(check_id=check_id, name=check_id, ttl=Duration.of(seconds), **fields)


def script(**fields: Any) -> CheckDefinition:
    return CheckDefinition(name="s", script_args=("true",), interval=Duration.of(10), **fields)


# Kept registrations ----------------------------------------------------------------------------


def test_registration_is_kept_over_a_restart_until_it_is_removed(tmp_path: Path) -> None:
    web = ServiceDefinition(name="web", port=80, tags=("a",), token="t", check=ttl("c1"))

    def register(world: World) -> None:
        assert world.services.register(web) == (("service", "web"), ("check", "c1"))
        assert world.services.register_check(ttl("node")) == (("check", "node"),)
        assert world.changes == 1

    def restart(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == (["web"], ["c1", "node"])
        assert (world.local.services["web"].port, world.local.services["web"].tags) == (80, ("a",))
        assert {item.kind: world.local.token(item) for item in iter(world.local.outbox.take, None)}[
            "service"
        ] == "t"
        assert world.services.deregister("web") == (("service", "web"),)
        assert world.services.deregister("web") == ()
        world.services.deregister_check("node")

    def restart_again(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == ([], [])

    for act in (register, restart, restart_again):
        play(act, tmp_path)


def test_what_is_kept_is_for_our_user_alone(tmp_path: Path) -> None:
    play(lambda world: _ignore(world.services.register(ServiceDefinition(name="web"))), tmp_path)
    (path,) = (tmp_path / "services").iterdir()
    assert path.stat().st_mode & 0o077 == 0


def _ignore(_value: object) -> None:
    """Make a statement of an expression."""


def test_check_that_was_removed_alone_does_not_come_back(tmp_path: Path) -> None:
    def register(world: World) -> None:
        world.services.register(ServiceDefinition(name="web", checks=(ttl("c1"), ttl("c2"))))
        world.services.deregister_check("c1")

    def restart(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == (["web"], ["c2"])

    play(register, tmp_path)
    play(restart, tmp_path)


def test_registration_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """It held its checks, too."""
    (tmp_path / "services").mkdir()
    old = msgpack.encode(ServiceDefinition(name="web", port=80, check=ttl("c1")))
    (tmp_path / "services" / "x.registration").write_bytes(old)

    def restart(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == (["web"], ["c1"])

    play(restart, tmp_path)


def test_damaged_kept_registration_stops_no_other(tmp_path: Path) -> None:
    def register(world: World) -> None:
        world.services.register(ServiceDefinition(name="web"))
        world.services.register_check(ttl("c1"))

    def restart(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == (["web"], ["c1"])

    play(register, tmp_path)
    for kind in ("services", "checks"):
        (tmp_path / kind / "damaged.registration").write_bytes(b"\xff\x00")
        (tmp_path / kind / "half.registration.new").write_bytes(b"\xff\x00")
    play(restart, tmp_path)


def test_configuration_wins_over_what_was_kept(tmp_path: Path) -> None:
    def register(world: World) -> None:
        world.services.register(ServiceDefinition(name="web", port=80))
        world.services.register_check(ttl("c1", 99))

    def restart(world: World) -> None:
        world.services.load([{"Name": "web", "Port": 81}], [TTL])
        assert world.local.services["web"].port == 81

    def without(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == ([], [])

    for act in (register, restart, without):
        play(act, tmp_path)


def test_configuration_is_not_kept(tmp_path: Path) -> None:
    play(lambda world: world.services.load([{"Name": "web", "Check": TTL}], []), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_registration_that_can_not_be_kept_is_an_error_of_that_call(tmp_path: Path) -> None:
    (tmp_path / "services").write_text("a file where a folder should be")

    async def act(world: World) -> None:
        await world.services.saved()
        world.services.register(ServiceDefinition(name="web"))
        with pytest.raises(RequestError, match="not kept over a restart"):
            await world.services.saved()
        assert world.ids() == (["web"], [])
        await world.services.saved()

    play(act, tmp_path)


# TTL checks and their state --------------------------------------------------------------------


def test_owner_updates_a_ttl_check() -> None:
    def act(world: World) -> None:
        world.services.register_check(ttl("c1"))
        world.services.update_check("c1", "passing", "fine")
        assert world.state("c1") == ("passing", "fine")
        world.services.deregister_check("c1")
        world.services.deregister_check("c1")
        with pytest.raises(RequestError, match='CheckID "c1" does not have associated TTL'):
            world.services.update_check("c1", "passing", "fine")

    play(act)


@pytest.mark.parametrize(("later", "state"), [(9, ("passing", "fine")), (10, ("critical", ""))])
def test_state_of_a_ttl_check_counts_as_long_as_its_time(
    tmp_path: Path, later: float, state: tuple[str, str]
) -> None:
    def update(world: World) -> None:
        world.services.load([], [TTL])
        world.services.update_check("c1", "passing", "fine")

    def restart(world: World) -> None:
        world.services.load([], [TTL])
        assert world.state("c1") == state

    play(update, tmp_path)
    play(restart, tmp_path, later=later)


def test_state_goes_with_its_check(tmp_path: Path) -> None:
    def update(world: World) -> None:
        world.services.register_check(ttl("c1"))
        world.services.update_check("c1", "passing", "fine")
        world.services.deregister_check("c1")

    def restart(world: World) -> None:
        world.services.register_check(ttl("c1"))
        assert world.state("c1") == ("critical", "")

    play(update, tmp_path)
    play(restart, tmp_path)


def test_registering_again_is_a_sign_of_life() -> None:
    async def act(world: World) -> None:
        definition = ServiceDefinition(name="web", check=ttl("c1"))
        for _ in range(5):
            world.services.register(definition)
            world.services.update_check("c1", "passing", "")
            await asyncio.sleep(8)
            world.services.register(definition)
            await asyncio.sleep(8)
            assert world.state("c1") == ("passing", "")
        await asyncio.sleep(3)
        assert world.state("c1") == ("critical", "TTL expired")

    play(act)


def test_registration_that_tells_a_status_is_believed() -> None:
    """A gateway that was dead comes back: it listens, whatever the last run of its check said."""

    async def act(world: World) -> None:
        check = CheckDefinition(
            check_id="c", tcp="127.0.0.1:1", interval=Duration.of(1000), status="passing"
        )
        service = ServiceDefinition(name="gateway", check=check)
        world.services.register(service)
        world.local.update_check("c", "critical", "refused")
        world.services.register(service)
        assert (world.local.checks["c"].status, world.local.checks["c"].output) == ("passing", "")

        silent = msgspec.structs.replace(check, status="")
        world.local.update_check("c", "critical", "refused")
        world.services.register(msgspec.structs.replace(service, check=silent))
        assert world.local.checks["c"].status == "critical"

    play(act)


def test_check_of_an_unknown_service_is_refused_and_not_run() -> None:
    def act(world: World) -> None:
        with pytest.raises(RequestError, match='ServiceID "nope" does not exist'):
            world.services.register_check(ttl("c1", service_id="nope"))
        with pytest.raises(RequestError):
            world.services.update_check("c1", "passing", "")

    play(act)


def test_service_that_stays_critical_is_deregistered(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        check = ttl("c1", deregister_critical_service_after=Duration.of(60))
        world.services.register(ServiceDefinition(name="web", check=check))
        await asyncio.sleep(69)
        assert world.ids() == (["web"], ["c1"])
        await asyncio.sleep(2)
        assert world.ids() == ([], [])

    def restart(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == ([], [])

    play(act, tmp_path)
    play(restart, tmp_path)


def test_node_check_that_stays_critical_stays() -> None:
    async def act(world: World) -> None:
        world.services.register_check(ttl("c1", deregister_critical_service_after=Duration.of(60)))
        await asyncio.sleep(200)
        assert world.state("c1") == ("critical", "TTL expired")

    play(act)


def test_checks_that_are_not_named_again_stay_unless_asked() -> None:
    def act(world: World) -> None:
        world.services.register(ServiceDefinition(name="web", checks=(ttl("c1"), ttl("c2"))))
        second = ServiceDefinition(name="web", checks=(ttl("c3"),))
        world.services.register(second)
        assert world.ids() == (["web"], ["c1", "c2", "c3"])
        world.services.register(second, replace_checks=True)
        assert world.ids() == (["web"], ["c3"])

    play(act)


# Reload ----------------------------------------------------------------------------------------


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


def test_reload_leaves_unchanged_checks_alone() -> None:
    async def act(world: World) -> None:
        other = {"CheckID": "c2", "Name": "other", "TTL": "10s"}
        services = [{"Name": "web", "Checks": [TTL, other]}]
        world.services.load(services, [])
        world.services.update_check("c1", "passing", "fine")
        await asyncio.sleep(5)
        world.services.reload(services, [])
        assert world.state("c1") == ("passing", "fine")
        world.services.reload([{"Name": "web", "Checks": [TTL]}], [])
        assert world.ids() == (["web"], ["c1"])

    play(act)


@pytest.mark.parametrize(
    ("services", "checks"),
    [
        ([{"Name": "new"}, {"Name": ""}], []),
        ([{"Name": "new"}, {"Name": "x", "Check": {"H2PING": "h:1", "Interval": "1s"}}], []),
        ([{"Name": "new"}, {"Name": "x", "Port": "eighty"}], []),
        ([{"Name": "new"}], [{"Name": "x", "Args": ["true"], "Interval": "1s"}]),
        ([{"Name": "new"}, {"Name": "x", "Connect": {"SidecarService": {"ID": "y"}}}], []),
    ],
)
def test_mistake_in_a_reload_changes_nothing(services: Any, checks: Any) -> None:
    def act(world: World) -> None:
        world.services.load([{"Name": "old"}], [])
        with pytest.raises(RequestError):
            world.services.reload(services, checks)
        assert world.ids() == (["old"], [])

    play(act)


# What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "instead"),
    [
        (CheckDefinition(h2ping="h:1", interval=Duration.of(1)), "use a gRPC check"),
        (script(docker_container_id="abc"), "docker exec CONTAINER"),
    ],
)
def test_what_we_cannot_run_is_refused_whole(
    check: CheckDefinition, instead: str, tmp_path: Path
) -> None:
    def act(world: World) -> None:
        with pytest.raises(InvalidRequest, match=instead):
            world.services.register(ServiceDefinition(name="web", checks=(ttl("c1"), check)))
        assert (world.ids(), world.changes) == (([], []), 0)

    play(act, tmp_path, http_scripts=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file_scripts", "http_scripts", "from_file", "from_http"),
    [(False, False, False, False), (True, False, True, False), (False, True, True, True)],
)
def test_programs_run_only_where_that_is_allowed(
    file_scripts: bool, http_scripts: bool, from_file: bool, from_http: bool
) -> None:
    def refused(register: Callable[[], object]) -> bool:
        try:
            register()
        except RequestError as error:
            text = str(error)
            names_it = "from remote calls" in text or text.endswith("to true (check 's')")
            return "Scripts are disabled on this agent" in text and names_it and error.status == 500
        return False

    def act(world: World) -> None:
        written = {"Name": "s", "Args": ["true"], "Interval": "10s"}
        assert refused(lambda: world.services.reload([], [written])) != from_file
        assert refused(lambda: world.services.register_check(script())) != from_http

    play(act, file_scripts=file_scripts, http_scripts=http_scripts)


def test_kept_program_is_not_run_after_scripts_were_disabled(tmp_path: Path) -> None:
    def register(world: World) -> None:
        world.services.register(ServiceDefinition(name="web", check=script()))

    def restart(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == (["web"], [])

    play(register, tmp_path, http_scripts=True)
    play(restart, tmp_path)
    play(restart, tmp_path, http_scripts=True)  # It was forgotten.


def test_name_that_dns_can_not_find_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    def act(world: World) -> None:
        for _ in range(3):
            world.services.register(ServiceDefinition(name="web_1"))
        assert world.ids()[0] == ["web_1"]

    play(act)
    (record,) = (one for one in caplog.records if "not found over DNS" in one.getMessage())
    assert "web_1" in record.getMessage()


# Sidecars --------------------------------------------------------------------------------------


def with_sidecar(name: str = "web", **sidecar: Any) -> ServiceDefinition:
    return ServiceDefinition(
        name=name, port=80, connect=ServiceConnect(sidecar_service={**sidecar})
    )


def test_sidecar_comes_and_goes_with_its_service(tmp_path: Path) -> None:
    def register(world: World) -> None:
        world.services.register(with_sidecar())
        world.services.register(with_sidecar("api"))
        world.services.register(with_sidecar("web"))  # It keeps its port.

    def restart(world: World) -> None:
        world.services.load([], [])
        ports = {service.id: service.port for service in world.local.services.values()}
        assert ports == {
            "web": 80, "web-sidecar-proxy": 21000, "api": 80, "api-sidecar-proxy": 21001,
        }  # fmt: skip
        checks = {check.check_id: check.name for check in world.local.checks.values()}
        assert checks["service:web-sidecar-proxy:1"] == "Connect Sidecar Listening"
        assert checks["service:web-sidecar-proxy:2"] == "Connect Sidecar Aliasing web"
        assert world.services.deregister("web") == (
            ("service", "web"),
            ("service", "web-sidecar-proxy"),
        )
        assert world.ids()[0] == ["api", "api-sidecar-proxy"]

    play(register, tmp_path)
    play(restart, tmp_path)


def test_service_that_only_looks_like_a_sidecar_stays() -> None:
    def act(world: World) -> None:
        for name in ("web", "web-sidecar-proxy"):
            world.services.register(ServiceDefinition(name=name))
        world.services.deregister("web")
        assert world.ids()[0] == ["web-sidecar-proxy"]

    play(act)


def test_sidecars_of_files_get_different_ports() -> None:
    def act(world: World) -> None:
        sidecar: Mapping[str, Any] = {"SidecarService": {}}
        world.services.load([{"Name": name, "Port": 1, "Connect": sidecar} for name in "ab"], [])
        ports = [world.local.services[f"{name}-sidecar-proxy"].port for name in "ab"]
        assert ports == [21000, 21001]

    play(act)


@pytest.mark.parametrize(
    ("sidecar", "config", "text"),
    [
        ({}, {"sidecar_port_max": 20999}, r"none left in the configured range \[21000, 20999\]"),
        ({}, {"sidecar_port_min": 0}, "auto-assignment disabled in config"),
        ({"ID": "x"}, {}, "A SidecarService cannot specify an ID"),
        ({"connect": {"sidecar_service": {}}}, {}, "cannot have a nested SidecarService"),
        ({"Bogus": 1}, {}, 'unknown field "Bogus"'),
        ({"check": {"TCP": "h:1"}}, {}, "Interval must be > 0"),
    ],
)
def test_bad_sidecar_refuses_the_service_with_it(
    sidecar: dict[str, Any], config: dict[str, int], text: str
) -> None:
    def act(world: World) -> None:
        with pytest.raises(InvalidRequest, match=text):
            world.services.register(with_sidecar(**sidecar))
        assert world.ids() == ([], [])

    play(act, None, **config)


# Maintenance -----------------------------------------------------------------------------------


def test_maintenance_of_node_and_service_survives_a_restart(tmp_path: Path) -> None:
    def enter(world: World) -> None:
        world.services.register(ServiceDefinition(name="web"))
        names = world.services.set_maintenance("web", enable=True, reason="moving")
        assert names == (("check", "_service_maintenance:web"),)
        assert world.services.set_maintenance("web", enable=True, reason="again") == ()
        world.services.set_maintenance("", enable=True)

    def restart(world: World) -> None:
        world.services.load([], [])
        check = world.local.checks["_service_maintenance:web"]
        assert (check.status, check.notes, check.type) == ("critical", "moving", "maintenance")
        assert check.name == "Service Maintenance Mode"
        assert "no reason was given" in world.local.checks["_node_maintenance"].notes
        world.services.set_maintenance("web", enable=False)
        world.services.set_maintenance("", enable=False)
        assert world.services.set_maintenance("", enable=False) == ()

    def restart_again(world: World) -> None:
        world.services.load([], [])
        assert world.ids() == (["web"], [])

    for act in (enter, restart, restart_again):
        play(act, tmp_path)


def test_maintenance_of_an_unknown_service_is_refused() -> None:
    def act(world: World) -> None:
        with pytest.raises(NotFound, match='No service registered with ID "none"'):
            world.services.set_maintenance("none", enable=True)

    play(act)
