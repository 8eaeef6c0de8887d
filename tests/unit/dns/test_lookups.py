"""Look-ups: shared, bounded, given up in time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from isthmus.dns.config import DnsConfig
from isthmus.dns.lookups import (
    CALLS_PER_DATACENTER_MAX,
    LOOKUP_TIMEOUT,
    SILENCE,
    WAITING_PER_DATACENTER_MAX,
    Lookups,
)
from isthmus.dns.names import QueryLookup, ServiceLookup
from isthmus.errors import Unavailable
from isthmus.units import Duration
from support.dns import found, instance
from support.virtual_loop import run_virtual

METHOD = "Health.ServiceNodes"


class SlowRpc:
    """Answers about dc1 at once, about other datacenters when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.release = asyncio.Event()

    async def __call__(self, method: str, request: Any) -> Any:
        self.calls.append(request)
        if request.datacenter != "dc1":
            await self.release.wait()
        return found(instance())


def make(rpc: Any, is_here: Callable[[bool], bool] = lambda stale: True) -> Lookups:
    return Lookups(DnsConfig(datacenter="dc1", node_name="own"), rpc, is_here=is_here)


def request(lookups: Lookups, service: str = "web", dc: str = "dc2") -> Any:
    return lookups.service_request(ServiceLookup(dc, service))


async def start(lookups: Lookups, count: int, **fields: str) -> list[asyncio.Task[Any]]:
    """Look-ups that have got as far as they can."""
    tasks = [
        asyncio.ensure_future(lookups.call(METHOD, request(lookups, **fields)))
        for _ in range(count)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_same_look_up_is_made_once_for_all() -> None:
    rpc = SlowRpc()
    lookups = make(rpc)
    tasks = await start(lookups, 20)
    rpc.release.set()
    replies = await asyncio.gather(*tasks)
    assert len(rpc.calls) == 1
    assert all(reply is replies[0] for reply in replies)
    await lookups.call(METHOD, request(lookups))
    assert len(rpc.calls) == 2


async def test_who_gives_up_does_not_take_the_others_along() -> None:
    rpc = SlowRpc()
    first, second = await start(make(rpc), 2)
    first.cancel()
    await asyncio.wait({first})
    rpc.release.set()
    assert (await second).nodes


async def test_datacenter_that_is_silent_has_its_share_and_no_more() -> None:
    rpc = SlowRpc()
    lookups = make(rpc)
    tasks = []
    for number in range(CALLS_PER_DATACENTER_MAX):
        tasks += await start(lookups, 1, service=f"s{number}")
    with pytest.raises(Unavailable, match="look-ups wait for datacenter dc2"):
        await lookups.call(METHOD, request(lookups, "another"))
    assert lookups.refused_count == 1
    assert (await lookups.call(METHOD, request(lookups, dc="dc1"))).nodes
    tasks += await start(lookups, 1, dc="dc3")
    rpc.release.set()
    await asyncio.gather(*tasks)
    assert (await lookups.call(METHOD, request(lookups, "another"))).nodes


async def test_only_so_many_wait_for_one_answer() -> None:
    rpc = SlowRpc()
    lookups = make(rpc)
    tasks = await start(lookups, WAITING_PER_DATACENTER_MAX)
    with pytest.raises(Unavailable):
        await lookups.call(METHOD, request(lookups))
    rpc.release.set()
    await asyncio.gather(*tasks)
    assert (await lookups.call(METHOD, request(lookups))).nodes


def test_look_up_is_given_up_in_time() -> None:
    async def scenario() -> float:
        clock = asyncio.get_running_loop()
        lookups = make(SlowRpc())
        with pytest.raises(Unavailable, match="datacenter dc2 did not answer"):
            await lookups.call(METHOD, request(lookups))
        elapsed = clock.time()
        await lookups.close()
        return elapsed

    assert run_virtual(scenario()) == pytest.approx(LOOKUP_TIMEOUT)


def test_datacenter_that_did_not_answer_is_left_alone_for_a_while() -> None:
    async def scenario() -> None:
        clock, rpc = asyncio.get_running_loop(), SlowRpc()
        lookups = make(rpc)
        with pytest.raises(Unavailable, match="did not answer in 4 s"):
            await lookups.call(METHOD, request(lookups))
        with pytest.raises(Unavailable, match="did not answer a moment ago"):
            await lookups.call(METHOD, request(lookups, "another"))
        assert clock.time() == pytest.approx(LOOKUP_TIMEOUT)
        assert (await lookups.call(METHOD, request(lookups, dc="dc1"))).nodes
        await asyncio.sleep(SILENCE)
        rpc.release.set()
        assert (await lookups.call(METHOD, request(lookups))).nodes
        await lookups.close()

    run_virtual(scenario())


async def test_failure_is_told_to_all() -> None:
    async def fail(method: str, request: Any) -> Any:
        await asyncio.sleep(0)
        raise Unavailable("no leader")

    for task in await start(make(fail), 3):
        with pytest.raises(Unavailable, match="no leader"):
            await task


async def test_what_is_in_the_process_is_answered_at_once() -> None:
    lookups = make(SlowRpc(), is_here=lambda stale: stale)
    assert lookups.at_once(METHOD, request(lookups, dc="dc1")).nodes
    assert lookups.at_once(METHOD, request(lookups, dc="dc2")) is None
    assert (
        make(SlowRpc(), is_here=lambda stale: False).at_once(METHOD, request(lookups, dc="dc1"))
        is None
    )


async def test_call_that_waits_after_all_is_not_left_half_done() -> None:
    stopped = []

    async def waits(method: str, request: Any) -> Any:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            stopped.append(method)

    lookups = make(waits)
    assert lookups.at_once(METHOD, request(lookups, dc="dc1")) is None
    assert stopped == [METHOD]


async def test_end_gives_up_what_is_under_way() -> None:
    lookups = make(SlowRpc())
    (task,) = await start(lookups, 1)
    await lookups.close()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_client_of_either_family_is_named_plainly() -> None:
    lookups = make(SlowRpc())
    for client in ("192.0.2.7", "::ffff:192.0.2.7"):
        assert lookups.query_request(QueryLookup("", "geo"), client).source.ip == "192.0.2.7"


async def test_cache_is_asked_if_it_is_wanted() -> None:
    asked: list[Any] = []

    async def cached(method: str, request: Any) -> Any:
        asked.append((request.use_cache, request.max_age.seconds))
        return found(instance())

    rpc = SlowRpc()
    config = DnsConfig(datacenter="dc1", node_name="own", use_cache=True, cache_max_age=3.0)
    lookups = Lookups(config, rpc, is_here=lambda stale: False, cached=cached)
    assert (await lookups.call(METHOD, request(lookups))).nodes
    assert (asked, rpc.calls) == ([(True, 3.0)], [])
    lookups = Lookups(
        DnsConfig(datacenter="dc1", node_name="own"),
        rpc,
        is_here=lambda stale: False,
        cached=cached,
    )
    assert (await lookups.call(METHOD, request(lookups, dc="dc1"))).nodes
    assert (len(asked), len(rpc.calls)) == (1, 1)


async def test_what_is_too_old_in_the_cache_is_asked_again_past_it() -> None:
    async def cached(method: str, request: Any) -> Any:
        return found(last_contact=Duration.of(20))

    config = DnsConfig(datacenter="dc1", node_name="own", use_cache=True, max_stale=10.0)
    lookups = Lookups(config, SlowRpc(), is_here=lambda stale: False, cached=cached)
    assert (await lookups.call(METHOD, request(lookups, dc="dc1"))).nodes
