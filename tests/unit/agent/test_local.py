"""The state of local services and checks, and who is told of a change, on virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from isthmus.agent.local import (
    SYNC_WAIT_MAX,
    LocalConfig,
    LocalState,
    NodeFacts,
    same_check,
    same_service,
)
from isthmus.agent.outbox import Item
from isthmus.errors import NotFound, RequestError
from isthmus.model.catalog import HealthCheck, NodeService, Weights
from support.virtual_loop import now, run_virtual, settle

FACTS = NodeFacts(dc="dc1", node="n1", node_id="", address="10.0.0.1", tagged_addresses={}, meta={})
WEB, C1 = Item("service", "web", "web"), Item("check", "c1", "web")


def service(name: str = "web", **fields: Any) -> NodeService:
    return NodeService(id=name, service=name, **fields)


def check(check_id: str = "c1", service_id: str = "web", **fields: Any) -> HealthCheck:
    return HealthCheck(check_id=check_id, name=check_id, service_id=service_id, **fields)


def make_local(**config: Any) -> LocalState:
    return LocalState(facts=FACTS, rng=Random(1), config=LocalConfig(**config))


def waiting(local: LocalState) -> list[Item]:
    """What the catalog has to be told; all of it arrives at once."""
    items = list(iter(local.outbox.take, None))
    for item in items:
        local.told(item)
    return items + (waiting(local) if items else [])


def play(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(act())


def test_check_gets_node_and_facts_of_its_service() -> None:
    local = make_local()
    local.put_service(service(tags=("a",)), [check(output="x")])
    (found,) = local.checks_of("web")
    assert (found.node, found.service_name, found.service_tags) == ("n1", "web", ("a",))
    assert local.checks_of("other") == ()
    local.put_check(check("disk", ""))
    assert [one.check_id for one in local.checks_of("web", with_node=True)] == ["disk", "c1"]


def test_check_of_an_unknown_service_is_refused() -> None:
    with pytest.raises(RequestError, match='ServiceID "nope" does not exist'):
        make_local().put_check(check("c1", "nope"))


def test_unknown_service_can_not_be_removed() -> None:
    with pytest.raises(NotFound, match='Unknown service ID "web"'):
        make_local().remove_service("web")


def test_known_check_keeps_its_state() -> None:
    local = make_local()
    local.put_service(service(), [check(status="critical")])
    local.update_check("c1", "passing", "fine")
    local.put_service(service(port=81), [check(status="critical", notes="new")])
    found = local.checks["c1"]
    assert (found.status, found.output, found.notes) == ("passing", "fine", "new")


def test_check_can_move_to_another_service() -> None:
    local = make_local()
    local.put_service(service(), [check()])
    local.put_service(service("db"), [check("c1", "db")])
    assert (local.checks_of("web"), len(local.checks_of("db"))) == ((), 1)


def test_same_registration_again_is_not_told_again() -> None:
    local = make_local()
    local.put_service(service(), [check()])
    assert waiting(local) == [WEB, C1]
    local.put_service(service(meta={}, weights=Weights(passing=1, warning=1)), [check()])
    assert waiting(local) == []
    local.put_service(service(), [check()], token="t")
    assert waiting(local) == [WEB, C1]


def test_result_is_told_once() -> None:
    local = make_local()
    local.put_service(service(), [check(status="critical")])
    waiting(local)
    for _ in range(2):
        local.update_check("c1", "passing", "fine")
    local.update_check("unknown", "passing", "fine")
    assert waiting(local) == [C1]


def test_removal_of_a_service_covers_its_checks() -> None:
    local = make_local()
    local.put_service(service(), [check()])
    assert local.remove_service("web") == ("c1",)
    assert (dict(local.services), dict(local.checks)) == ({}, {})
    assert waiting(local) == [WEB]


def test_token_is_kept_until_the_catalog_knows_of_the_removal() -> None:
    local = make_local()
    local.put_service(service(), token="t")
    waiting(local)
    local.remove_service("web")
    assert local.token(WEB) == "t"
    waiting(local)
    assert local.token(WEB) == ""


def test_other_output_alone_is_told_later() -> None:
    async def act() -> None:
        local = make_local(update_interval=100.0)
        local.put_service(service(), [check(status="passing")])
        waiting(local)
        local.update_check("c1", "passing", "other")
        assert local.is_deferred("c1")
        assert local.checks["c1"].output == "other"
        await asyncio.sleep(50)
        assert waiting(local) == []
        await asyncio.sleep(100)
        assert waiting(local) == [C1]
        assert not local.is_deferred("c1")

    play(act)


def test_other_status_is_told_at_once_with_the_output() -> None:
    async def act() -> None:
        local = make_local()
        local.put_service(service(), [check(status="passing")])
        waiting(local)
        local.update_check("c1", "passing", "other")
        local.update_check("c1", "warning", "slow")
        assert waiting(local) == [C1]
        await asyncio.sleep(1000)
        assert waiting(local) == []

    play(act)


def test_removed_check_is_not_told_later() -> None:
    async def act() -> None:
        local = make_local()
        local.put_service(service(), [check(status="passing")])
        local.update_check("c1", "passing", "other")
        local.remove_check("c1")
        assert waiting(local) == [WEB, C1]
        await asyncio.sleep(1000)
        assert waiting(local) == []

    play(act)


def test_output_can_be_discarded() -> None:
    local = make_local(discard_output=True)
    local.put_service(service(), [check(status="passing", output="given")])
    local.update_check("c1", "critical", "secret")
    assert (local.checks["c1"].status, local.checks["c1"].output) == ("critical", "")
    local.reconfigure(LocalConfig())
    local.update_check("c1", "passing", "shown")
    assert local.checks["c1"].output == "shown"


def test_every_output_is_told_when_nothing_is_deferred() -> None:
    local = make_local(update_interval=0.0)
    local.put_service(service(), [check(status="passing")])
    waiting(local)
    local.update_check("c1", "passing", "other")
    assert waiting(local) == [C1]


def test_new_metadata_of_the_node_is_told() -> None:
    local = make_local()
    local.set_meta({})
    assert waiting(local) == []
    local.set_meta({"rack": "7"})
    assert [item.kind for item in waiting(local)] == ["node"]


async def _moment_of(wait: Coroutine[Any, Any, None], act: Callable[[], None]) -> float:
    """When a wait ends that began a second before `act`."""
    task = asyncio.get_running_loop().create_task(wait)
    await asyncio.sleep(1)
    act()
    await task
    return now()


def test_waiting_for_a_service_ends_with_its_change() -> None:
    async def act() -> None:
        local = make_local()
        wait = local.wait_for_service("web", 60)
        assert await _moment_of(wait, lambda: local.put_service(service())) == 1
        wait = local.wait_for_service("web", 60)
        assert await _moment_of(wait, lambda: local.put_service(service("other"))) == 61
        wait = local.wait_for_service("web", 60)
        local.put_service(service(enable_tag_override=True))
        assert await _moment_of(wait, lambda: local.adopt_tags("web", ("a",))) == 62

    play(act)


def test_waiting_for_checks_ends_with_one_of_the_service_or_the_node() -> None:
    async def act() -> None:
        local = make_local()
        local.put_service(service(), [check(status="passing")])
        local.put_check(check("disk", "", status="passing"))
        wait = local.wait_for_checks("web", 60)
        assert await _moment_of(wait, lambda: local.update_check("c1", "critical", "")) == 1
        wait = local.wait_for_checks("web", 60)
        assert await _moment_of(wait, lambda: local.update_check("disk", "critical", "")) == 2
        wait = local.wait_for_checks("web", 60)
        assert await _moment_of(wait, lambda: local.put_service(service("other"))) == 62

    play(act)


def test_waiting_for_the_catalog_ends_when_it_was_told() -> None:
    async def act() -> None:
        local = make_local()
        await local.synced(("service", "web"))
        local.put_service(service())
        local.put_service(service("other"))
        wait = local.synced(("service", "web"))
        assert local.outbox.take() == WEB
        assert await _moment_of(wait, lambda: local.told(WEB)) == 1
        await local.synced(("service", "other"))
        assert now() == 1 + SYNC_WAIT_MAX

    play(act)


def test_nobody_waits_for_a_catalog_that_can_not_be_told() -> None:
    async def act() -> None:
        local = make_local()
        local.put_service(service())
        wait = local.synced(("service", "web"))
        assert await _moment_of(wait, local.give_up_waiting) == 1
        await local.synced(("service", "web"))
        assert now() == 1

    play(act)


def test_waiter_that_is_cancelled_is_forgotten() -> None:
    async def act() -> None:
        local = make_local()
        task = asyncio.get_running_loop().create_task(local.wait_for_service("web", 60))
        await settle()
        task.cancel()
        await asyncio.wait({task})
        assert local._watchers == {}

    play(act)


@pytest.mark.parametrize(
    "change",
    [
        {"port": 1}, {"address": "a"}, {"tags": ("a",)}, {"meta": {"a": "b"}}, {"kind": "k"},
        {"socket_path": "/s"}, {"weights": Weights(passing=2, warning=1)},
        {"enable_tag_override": True},
    ],
)  # fmt: skip
def test_services_that_differ_are_not_the_same(change: dict[str, Any]) -> None:
    assert not same_service(service(), service(**change))
    assert same_service(service(**change), service(**change, modify_index=7))


@pytest.mark.parametrize(
    "change", [{"status": "s"}, {"output": "o"}, {"notes": "n"}, {"type": "t"}, {"interval": "1s"}]
)
def test_checks_that_differ_are_not_the_same(change: dict[str, Any]) -> None:
    assert not same_check(check(), check(**change))
    assert same_check(check(**change), check(**change, modify_index=7, service_name="filled in"))
    assert same_check(check(output="a"), check(output="b"), with_output=False)
