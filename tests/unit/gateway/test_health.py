from collections import Counter

from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.health import EndpointHealth
from isthmus.mesh.routes import Endpoint

A, B, C = (Endpoint(f"192.0.2.{n}", 8443) for n in (1, 2, 3))


def make_health() -> EndpointHealth:
    return EndpointHealth(GatewayConfig(eject_failures=3, eject_time=30.0, eject_time_max=100.0))


def fail(health: EndpointHealth, endpoint: Endpoint, times: int, *, now: float) -> None:
    for _ in range(times):
        health.failed(endpoint, now=now)


def test_every_endpoint_is_first_in_turn_and_all_are_offered() -> None:
    health = make_health()
    orders = [health.order((A, B, C), now=0.0) for _ in range(3)]
    assert sorted(order[0].host for order in orders) == [A.host, B.host, C.host]
    assert all(sorted(o.host for o in order) == [A.host, B.host, C.host] for order in orders)


def test_turns_are_in_proportion_to_weight() -> None:
    health = make_health()
    heavy = Endpoint("192.0.2.9", 8443, weight=3)
    first = Counter(health.order((A, heavy), now=0.0)[0].host for _ in range(40))
    assert first == {A.host: 10, heavy.host: 30}


def test_endpoint_is_ejected_after_failures_in_a_row_and_comes_back() -> None:
    health = make_health()
    fail(health, A, 2, now=0.0)
    assert not health.is_ejected(A, now=0.0)
    fail(health, A, 1, now=0.0)
    assert all(health.order((A, B), now=29.9) == [B, A] for _ in range(4))
    assert {health.order((A, B), now=30.0)[0] for _ in range(4)} == {A, B}


def test_success_between_failures_keeps_an_endpoint_in() -> None:
    health = make_health()
    fail(health, A, 2, now=0.0)
    health.worked(A)
    fail(health, A, 2, now=0.0)
    assert not health.is_ejected(A, now=0.0)


def test_each_further_ejection_is_twice_as_long_up_to_a_bound() -> None:
    health, now, lengths = make_health(), 0.0, []
    fail(health, A, 3, now=now)
    for _ in range(4):
        end = now
        while health.is_ejected(A, now=end):
            end += 1.0
        lengths.append(end - now)
        now = end
        fail(health, A, 1, now=now)
    assert lengths == [30.0, 60.0, 100.0, 100.0]


def test_failures_of_an_ejected_endpoint_do_not_prolong_its_time_out() -> None:
    health = make_health()
    fail(health, A, 3, now=0.0)
    fail(health, A, 9, now=10.0)
    assert not health.is_ejected(A, now=30.0)


def test_all_are_still_offered_when_all_are_ejected() -> None:
    health = make_health()
    for endpoint in (A, B):
        fail(health, endpoint, 3, now=0.0)
    assert sorted(e.host for e in health.order((A, B), now=1.0)) == [A.host, B.host]


def test_endpoints_that_no_route_names_are_forgotten() -> None:
    health = make_health()
    for endpoint in (A, B):
        fail(health, endpoint, 3, now=0.0)
    health.keep_only({A})
    assert (health.is_ejected(A, now=1.0), health.is_ejected(B, now=1.0)) == (True, False)


def test_overtaken_endpoint_is_tried_last_for_a_while() -> None:
    health = make_health()
    health.overtaken(A, now=0.0)
    assert all(health.order((A, B), now=4.9) == [B, A] for _ in range(4))
    assert {health.order((A, B), now=5.0)[0] for _ in range(4)} == {A, B}


def test_answer_ends_the_doubt() -> None:
    health = make_health()
    health.overtaken(A, now=0.0)
    health.worked(A, seconds=0.3)
    assert {health.order((A, B), now=0.0)[0] for _ in range(4)} == {A, B}


def test_usual_answer_time_is_remembered_but_no_hang() -> None:
    health = make_health()
    assert health.answer_seconds(A) == 0.0
    health.worked(A, seconds=0.3)
    assert health.answer_seconds(A) == 0.3
    health.worked(A, seconds=60.0)
    assert health.answer_seconds(A) == 1.0
    health.keep_only([B])
    assert health.answer_seconds(A) == 0.0
