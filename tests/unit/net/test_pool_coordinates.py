"""Pools estimate the round trips of the network between them, on virtual time."""

import asyncio
from collections.abc import Callable
from itertools import combinations
from random import Random
from typing import Any

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.model.coordinate import ORIGIN, distance
from isthmus.net.gossip import GossipThread, Pool
from isthmus.net.gossip_driver import PoolDriver
from support.pool_drivers import Drivers
from support.virtual_loop import run_virtual

ROUND_TRIPS = {"ab": 0.010, "ac": 0.040, "bc": 0.045}
SECONDS = 300.0
"""Enough for every member to have probed every other a hundred times."""

Played = dict[str, Pool]


def together(
    check: Callable[[Played], None],
    *,
    config: GossipConfig | None = None,
    jitter: float = 0.0,
    seconds: float = SECONDS,
) -> None:
    """Let three members live together for a while, then look at them."""

    async def run() -> None:
        drivers = Drivers(config)
        names = dict[tuple[str, int], str]()
        rng = Random(1)

        def delay(source: tuple[str, int], target: tuple[str, int]) -> float:
            pair = "".join(sorted(names.get(source, "") + names.get(target, "")))
            return ROUND_TRIPS.get(pair, 0.0) / 2 * (1 + rng.uniform(0, jitter))

        drivers.network.delay = delay
        opened = await drivers.open_pool("a", "b", "c")
        names.update({driver.address: driver.config.name for driver in opened})
        await asyncio.sleep(seconds)
        check({driver.config.name: _pool(drivers, driver) for driver in opened})
        await drivers.close()

    run_virtual(run())


def _pool(drivers: Drivers, driver: PoolDriver) -> Pool:
    """A pool whose thread was never started: what is asked of it here, any thread may ask."""
    network: Any = drivers.network
    return Pool(GossipThread(network), driver)


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_every_member_estimates_every_round_trip(jitter: float) -> None:
    def check(pools: Played) -> None:
        for observer, pool in pools.items():
            known = pool.coordinates()
            assert set(known) == {"a", "b", "c"}
            assert known[observer] == pool.coordinate()
            for one, other in combinations("abc", 2):
                rtt = ROUND_TRIPS[one + other] * (1 + jitter / 2)
                assert distance(known[one], known[other]) == pytest.approx(rtt, rel=0.2)
            assert pool.coordinate().error < 0.3

    together(check, jitter=jitter)


def test_what_was_handed_out_does_not_change() -> None:
    def check(pools: Played) -> None:
        known = pools["a"].coordinates()
        assert pools["a"].coordinates() == known
        assert pools["a"].coordinates() is not known

    together(check, seconds=30)


def test_pool_without_coordinates_knows_none() -> None:
    def check(pools: Played) -> None:
        for pool in pools.values():
            assert (pool.coordinate(), pool.coordinates()) == (ORIGIN, {})

    together(check, config=GossipConfig(coordinates=False), seconds=30)


def test_members_without_coordinates_do_not_disturb_the_others() -> None:
    async def run() -> None:
        drivers = Drivers()
        opened = await drivers.open_pool("a", "b")
        silent = await drivers.open("c", gossip=GossipConfig(coordinates=False))
        await drivers.join(silent, opened[0])
        await asyncio.sleep(60)
        assert set(_pool(drivers, opened[0]).coordinates()) == {"a", "b"}
        assert (await opened[0].stats())["coordinates_refused"] == "0"
        assert _pool(drivers, silent).coordinates() == {}
        await drivers.close()

    run_virtual(run())
