"""The servers that a client agent calls: in which order, and when that changes."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from isthmus.federation.router import ServerInfo
from isthmus.federation.servers import (
    REBALANCE_JITTER,
    REBALANCE_MIN,
    SERVERS_MAX,
    LanServers,
    PingServer,
)


def server(name: str, *, host: str = "10.0.0.1", alive: bool = True) -> ServerInfo:
    return ServerInfo(name=name, node=name, dc="dc1", host=host, port=8300, alive=alive)


def make_servers(*names: str, seed: int = 1) -> LanServers:
    """In the order given: one that answers ends the shuffling of a start."""
    servers = LanServers(rng=Random(seed), now=0.0)
    servers.answered(server("nobody"))
    for name in names:
        servers.put(server(name))
    return servers


def order(servers: LanServers, *, now: float = 0.0) -> list[str]:
    return [found.name for found in servers.in_order(now=now)]


def rebalance(servers: LanServers, *silent: str) -> tuple[float, list[str]]:
    """Let the next rebalancing happen; when that was, and who got a ping."""
    now = servers.next_timer()
    servers.handle_timer(now=now, member_count=10)
    pinged = []
    while outputs := servers.take_outputs():
        for output in outputs:
            pinged.append(output.server.name)
            servers.pinged(output.server, ok=output.server.name not in silent, now=now)
    return now, pinged


def test_server_that_failed_goes_to_the_end_and_stays_there() -> None:
    servers = make_servers("a", "b", "c")
    servers.failed(server("a"), now=0.0)
    assert order(servers) == order(servers, now=1e4) == ["b", "c", "a"]
    servers.failed(server("b"), now=0.0)
    servers.failed(server("c"), now=0.0)
    assert order(servers) == ["a", "b", "c"]


def test_failed_member_stands_behind_living_ones() -> None:
    servers = make_servers("a", "b", "c")
    servers.put(server("a", alive=False))
    assert order(servers) == ["b", "c", "a"]
    servers.put(server("a"))
    assert order(servers) == ["a", "b", "c"]


def test_server_that_came_back_has_cooled_down() -> None:
    servers = make_servers("a", "b")
    servers.failed(server("a"), now=0.0)
    servers.failed(server("b"), now=0.0)
    servers.put(server("b", alive=False))
    servers.put(server("b"))
    assert order(servers) == ["b", "a"]


def test_server_that_left_is_called_no_more() -> None:
    servers = make_servers("a", "b")
    assert servers.remove("a") == server("a")
    assert servers.remove("a") is None
    servers.failed(server("a"), now=0.0)
    assert (order(servers), len(servers)) == (["b"], 1)


def test_server_at_another_address_is_told() -> None:
    servers = make_servers("a")
    assert servers.put(server("a")) is None
    assert servers.put(server("a", alive=False)) is None
    assert servers.put(server("a", host="10.0.0.9")) == server("a", alive=False)


def test_list_has_an_end() -> None:
    servers = make_servers(*(f"s{number}" for number in range(SERVERS_MAX + 1)))
    assert len(servers) == SERVERS_MAX
    assert servers.put(server("s0", host="10.0.0.9")) == server("s0")


def test_clients_that_start_spread_over_the_servers() -> None:
    firsts = Counter[str]()
    for seed in range(300):
        servers = LanServers(rng=Random(seed), now=0.0)
        for name in ("a", "b", "c"):
            servers.put(server(name))
        firsts[order(servers)[0]] += 1
    assert min(firsts[name] for name in "abc") > 70


def test_rebalancing_is_minutes_apart_and_shuffles() -> None:
    servers = make_servers("a", "b", "c")
    moments, orders = [0.0], set()
    for _ in range(40):
        now, pinged = rebalance(servers)
        moments.append(now)
        orders.add(tuple(order(servers)))
        assert pinged == order(servers)[:1]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert all(REBALANCE_MIN <= gap <= REBALANCE_MIN + REBALANCE_JITTER for gap in gaps)
    assert len(orders) == 6


def test_timer_that_is_early_does_nothing() -> None:
    servers = make_servers("a", "b")
    servers.handle_timer(now=servers.next_timer() - 0.1, member_count=1)
    assert servers.take_outputs() == []


def test_large_pools_rebalance_rarely() -> None:
    """64 connections a second to each server: of 100 000 clients each one every 520 s."""
    servers = make_servers("a", "b", "c")
    now = servers.next_timer()
    servers.handle_timer(now=now, member_count=100_000)
    assert servers.next_timer() - now == 100_000 / (3 * 64)


def test_new_order_begins_with_who_answers() -> None:
    servers = make_servers("a", "b", "c")
    _, pinged = rebalance(servers, "a", "b")
    assert (pinged[-1], order(servers)[0], order(servers, now=1e9)[0]) == ("c", "c", "c")


def test_nobody_answers_and_the_order_stays() -> None:
    servers = make_servers("a", "b", "c")
    _, pinged = rebalance(servers, "a", "b", "c")
    assert sorted(pinged) == ["a", "b", "c"] == sorted(order(servers))


def test_failed_members_get_no_ping() -> None:
    servers = make_servers("a", "b")
    servers.put(server("a", alive=False))
    assert rebalance(servers)[1] == ["b"]
    assert order(servers) == ["b", "a"]


def test_answer_to_an_older_ping_is_ignored() -> None:
    servers = make_servers("a", "b")
    servers.handle_timer(now=servers.next_timer(), member_count=1)
    (ping,) = servers.take_outputs()
    other = next(name for name in ("a", "b") if name != ping.server.name)
    before = order(servers)
    servers.pinged(server(other), ok=False, now=0.0)
    assert (order(servers), servers.take_outputs()) == (before, [])


def test_server_that_leaves_while_it_is_tried_is_passed_over() -> None:
    servers = make_servers("a", "b")
    servers.handle_timer(now=servers.next_timer(), member_count=1)
    (ping,) = servers.take_outputs()
    servers.remove(ping.server.name)
    servers.pinged(ping.server, ok=False, now=0.0)
    (left,) = servers.in_order(now=0.0)
    assert servers.take_outputs() == [PingServer(left)]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["put", "fail", "die", "go", "ok"])),
        max_size=40,
    ),
    st.integers(0, 99),
)
def test_every_known_server_is_listed_once(acts: list[tuple[str, str]], seed: int) -> None:
    servers, known = LanServers(rng=Random(seed), now=0.0), dict[str, ServerInfo]()
    for moment, (name, act) in enumerate(acts):
        one = server(name)
        match act:
            case "put":
                servers.put(one)
                known[name] = one
            case "die" if name in known:
                known[name] = replace(one, alive=False)
                servers.put(known[name])
            case "fail":
                servers.failed(one, now=float(moment))
            case "ok":
                servers.answered(one)
            case "go":
                servers.remove(name)
                known.pop(name, None)
            case _:  # One that is unknown cannot die.
                continue
    found = servers.in_order(now=float(len(acts)))
    assert sorted(found, key=lambda one: one.name) == [known[name] for name in sorted(known)]
