"""Registrations and states on disk, between two starts."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.agent.kept import Kept, KeptService, KeptState
from isthmus.errors import RequestError
from isthmus.model.agent import CheckDefinition, ServiceDefinition

WEB = ServiceDefinition(name="web", port=80, token="t")
C1, C2 = (CheckDefinition(check_id=name, name=name, tcp="h:1") for name in ("c1", "c2"))


class World:
    """A data directory; counts the calls on threads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, 0

    async def offload(self, work: Callable[[], object]) -> object:
        self.calls += 1
        await asyncio.sleep(0)
        return work()

    def open(self) -> Kept:
        """As the agent does at its start."""
        return Kept(self.folder, offload=self.offload)

    def files(self) -> int:
        return sum(path.is_file() for path in self.folder.rglob("*"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_service_with_its_checks_is_one_file(world: World) -> None:
    kept = world.open()
    kept.keep_service(WEB, [C1, C2], is_sidecar=True)
    await kept.saved()
    assert world.files() == 1
    assert list(world.open().services()) == [
        KeptService(service=WEB, checks=(C1, C2), is_sidecar=True)
    ]


async def test_check_moves_between_its_service_and_a_file_of_its_own(world: World) -> None:
    kept = world.open()
    kept.keep_service(WEB, [C1, C2], is_sidecar=False)
    kept.keep_check(C1)
    await kept.saved()
    (service,) = world.open().services()
    assert (service.checks, list(world.open().checks())) == ((C2,), [C1])
    kept.keep_service(WEB, [C1], is_sidecar=False)
    await kept.saved()
    (service,) = world.open().services()
    assert (service.checks, list(world.open().checks())) == ((C2, C1), [])


async def test_forgotten_check_leaves_its_service(world: World) -> None:
    kept = world.open()
    kept.keep_service(WEB, [C1, C2], is_sidecar=False)
    await kept.saved()
    again = world.open()
    assert len(list(again.services())) == 1
    again.forget_check("c1")
    again.forget_check("unknown")
    await again.saved()
    (service,) = world.open().services()
    assert service.checks == (C2,)


async def test_forgotten_service_is_gone_with_its_checks(world: World) -> None:
    kept = world.open()
    kept.keep_service(WEB, [C1], is_sidecar=False)
    kept.forget_service("web")
    kept.forget_service("web")
    kept.forget_check("c1")
    await kept.saved()
    assert world.files() == 0


async def test_state_lasts_as_long_as_it_counts(world: World) -> None:
    kept = world.open()
    state = KeptState(check_id="c1", status="passing", output="fine", expires=100)
    kept.keep_state(state)
    await kept.saved()
    assert world.open().state("c1", now=99.9) == state
    assert world.open().state("c1", now=100) is None
    assert world.open().state("c2", now=0) is None
    kept.forget_definition("c1")
    assert kept.state("c1", now=0) == state
    kept.forget_check("c1")
    await kept.saved()
    assert world.open().state("c1", now=0) is None


async def test_what_waits_is_written_together_and_only_as_it_is_at_last(world: World) -> None:
    kept = world.open()
    for port in range(100):
        kept.keep_service(ServiceDefinition(name="web", port=port), [], is_sidecar=False)
    for number in range(50):
        kept.keep_check(CheckDefinition(check_id=f"c{number}", name="c"))
    await kept.saved()
    assert world.files() == 51
    assert world.calls <= 10
    (service,) = world.open().services()
    assert service.service is not None
    assert service.service.port == 99


async def test_everything_is_written_before_the_end(world: World) -> None:
    kept = world.open()
    kept.keep_check(C1)
    await asyncio.sleep(0)
    kept.keep_check(C2)
    await kept.close()
    assert sorted(check.check_id for check in world.open().checks()) == ["c1", "c2"]


async def test_nothing_is_kept_without_a_folder() -> None:
    kept = Kept(None)
    kept.keep_service(WEB, [C1], is_sidecar=False)
    kept.keep_state(KeptState(check_id="c1"))
    await kept.saved()
    await kept.close()
    assert (list(kept.services()), list(kept.checks()), kept.state("c1", now=0)) == ([], [], None)


async def test_full_disk_is_told_to_who_waits_and_is_over_with_the_next(world: World) -> None:
    full = True

    async def offload(work: Callable[[], object]) -> object:
        if full:
            raise OSError(28, "No space left on device")
        return work()

    kept = Kept(world.folder, offload=offload)
    kept.keep_check(C1)
    with pytest.raises(RequestError, match=r"not kept over a restart.*No space left"):
        await kept.saved()
    full = False
    kept.keep_check(C1)
    await kept.saved()
    assert list(world.open().checks()) == [C1]
