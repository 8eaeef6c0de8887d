"""Vivaldi (Dabek, Cox, Kaashoek, Morris; SIGCOMM 2004), and protocol/gossip.md §13.9 on it.

One test per statement, cited in its docstring.
"""

import math
import statistics
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.gossip.coordinate import ADJUSTMENT_SAMPLES, Vivaldi
from isthmus.model.coordinate import ERROR_MAX, HEIGHT_MIN, ORIGIN, Coord, distance
from support.coordinates import at, captured, coords, wild_coords

Rtt = Callable[[int, int], float]


class Network:
    """Nodes that measure each other, in rounds: each round each node measures one other."""

    def __init__(self, size: int, rtt: Rtt, *, seed: int = 1, noise: float = 0.0) -> None:
        self.rng = Random(seed)
        self.rtt, self.noise = rtt, noise
        self.nodes = [Vivaldi(rng=Random(seed * 1000 + number)) for number in range(size)]

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            for number in range(len(self.nodes)):
                self.measure(number)

    def measure(self, number: int, other: int | None = None) -> None:
        if other is None:
            other = self.rng.randrange(len(self.nodes) - 1)
            other += other >= number
        rtt = self.rtt(number, other) * (1 + self.rng.uniform(0, self.noise))
        self.nodes[number].update(f"n{other}", self.nodes[other].coord, rtt)

    def relative_errors(self) -> list[float]:
        """|estimated - true| / true of each pair."""
        return [
            abs(distance(a.coord, b.coord) - self.rtt(i, j)) / self.rtt(i, j)
            for i, a in enumerate(self.nodes)
            for j, b in enumerate(self.nodes)
            if i < j
        ]


def plane(size: int, seed: int, *, access: float = 0.0) -> Rtt:
    """Round trips of nodes in a plane of 100 ms by 100 ms, each behind a link of its own."""
    rng = Random(seed)
    places = [(rng.uniform(0, 0.1), rng.uniform(0, 0.1)) for _ in range(size)]
    links = [rng.uniform(0.0005, 0.0005 + access) for _ in range(size)]
    return lambda i, j: math.dist(places[i], places[j]) + links[i] + links[j]


def settled(vivaldi: Vivaldi, other: Coord, rtt: float, rounds: int = 400) -> Vivaldi:
    """A node that has measured one fixed other so often that it rests."""
    for _ in range(rounds):
        vivaldi.update("other", other, rtt)
    return vivaldi


# The algorithm ------------------------------------------------------------------------------------


def test_a_spring_pulls_the_distance_to_the_round_trip() -> None:
    """§2.4: a node moves along the spring's force until its length is the measured latency."""
    other = at(0.03, error=0.2)
    node = settled(Vivaldi(rng=Random(1)), other, 0.08)
    assert distance(node.coord, other) == pytest.approx(0.08, rel=0.01)


def test_too_near_pushes_away_and_too_far_pulls_closer() -> None:
    """§2.4: the direction of the force is the unit vector between the two nodes."""
    other = at(0.05, error=0.5)
    for rtt, closer in ((0.2, False), (0.01, True)):
        node = Vivaldi(rng=Random(1))
        before = math.dist(node.coord.vec or (), other.vec or ())
        node.update("other", other, rtt)
        assert (math.dist(node.coord.vec or (), other.vec or ()) < before) is closer
        assert node.coord.vec is not None
        assert node.coord.vec[1:] == (0.0,) * 7


def test_two_nodes_in_one_place_part_in_a_random_direction() -> None:
    """§2.4: u(0) is a unit vector in a randomly chosen direction."""
    ends = []
    for seed in (1, 2):
        node = Vivaldi(rng=Random(seed))
        node.update("other", ORIGIN, 0.1)
        ends.append(node.coord.vec or ())
    away = 0.25 * 0.5 * (0.1 - 2 * HEIGHT_MIN)
    assert math.hypot(*ends[0]) == pytest.approx(away, rel=1e-3)
    assert math.dist(*ends) > away / 10
    assert all(ends[0])


def test_weight_balances_our_error_against_the_others() -> None:
    """§2.5: w = e_i / (e_i + e_j), delta = c_c * w: the less sure of two moves more."""
    moves = []
    for error in (0.01, 0.5, 1.5):
        node = Vivaldi(rng=Random(1))
        node.update("other", at(0.1, error=error), 0.3)
        moves.append(math.hypot(*(node.coord.vec or ())))
        weight = ERROR_MAX / (ERROR_MAX + error)
        assert moves[-1] == pytest.approx(0.25 * weight * (0.3 - 0.10002), rel=1e-3)
    assert moves == sorted(moves, reverse=True)


def test_error_is_a_moving_average_of_the_relative_errors() -> None:
    """§2.5: e_i = e_s * c_e * w + e_i * (1 - c_e * w), with e_s = |dist - rtt| / rtt."""
    node = Vivaldi(rng=Random(1))
    node.update("other", at(0.1, error=0.5), 0.2)
    share = 0.25 * ERROR_MAX / (ERROR_MAX + 0.5)
    sample = (0.2 - 0.10002) / 0.2
    assert node.coord.error == pytest.approx(share * sample + ERROR_MAX * (1 - share), rel=1e-6)


def test_error_falls_while_estimates_are_right_and_rises_when_they_are_not() -> None:
    """§2.5: the error says how well the node's estimates hold."""
    other = at(0.05, error=0.1)
    node = settled(Vivaldi(rng=Random(1)), other, 0.05)
    low = node.coord.error
    assert low < 0.1
    for _ in range(3):  # The median lets the first one pass.
        node.update("other", other, 0.5)
    assert node.coord.error > low


def test_new_nodes_do_not_displace_settled_ones() -> None:
    """§2.5: nodes that join with a high error are pulled to the others, which hardly move."""
    rtt = plane(60, 5)
    network = Network(60, rtt)
    settled_nodes = network.nodes[:40]
    newcomers, network.nodes = network.nodes[40:], settled_nodes
    network.run(300)
    before = statistics.median(network.relative_errors())
    network.nodes = settled_nodes + newcomers
    network.run(5)
    old = Network(40, rtt)
    old.nodes = settled_nodes
    assert statistics.median(old.relative_errors()) < before + 0.05


# What it achieves ---------------------------------------------------------------------------------


def test_nodes_of_a_plane_converge() -> None:
    """§4.2: from one point, Vivaldi converges to small errors; here with all that serf adds."""
    network = Network(40, plane(40, 3), noise=0.02)
    assert statistics.median(network.relative_errors()) > 0.9
    network.run(200)
    errors = sorted(network.relative_errors())
    assert statistics.median(errors) < 0.05
    assert errors[int(0.9 * len(errors))] < 0.2


def test_nodes_follow_a_network_that_changes() -> None:
    """§4.5: after a change of the network the coordinates adapt."""
    before, after = plane(30, 3), plane(30, 4)
    network = Network(30, before)
    network.run(200)
    network.rtt = after
    wrong = statistics.median(network.relative_errors())
    network.run(300)
    assert statistics.median(network.relative_errors()) < min(0.08, wrong / 3)


def test_heights_stand_for_access_links() -> None:
    """§5.4: the height is the latency of the access link, crossed to reach any other node."""
    links = [0.00025 * (1 + number % 10) for number in range(80)]
    network = Network(80, lambda i, j: links[i] + links[j])
    network.run(300)
    assert statistics.median(network.relative_errors()) < 0.08
    heights = [node.coord.height for node in network.nodes]
    assert statistics.correlation(links, heights) > 0.8


def test_access_links_beside_places_are_modelled() -> None:
    """§5.4: height vectors predict networks in which links matter as much as places."""
    network = Network(40, plane(40, 7, access=0.05))
    network.run(300)
    assert statistics.median(network.relative_errors()) < 0.08


def test_height_is_added_on_the_way_out_and_scales_with_the_force() -> None:
    """§5.4, §13.9: h = max(1e-5, (h + h') * f / mag + h) where the two are apart."""
    other = at(0.05, height=0.02, error=0.5)
    node = Vivaldi(rng=Random(1))
    node.update("other", other, 0.2)
    weight = ERROR_MAX / (ERROR_MAX + 0.5)
    force = 0.25 * weight * (0.2 - (0.05 + 0.02 + HEIGHT_MIN))
    assert node.coord.height == pytest.approx(
        (HEIGHT_MIN + 0.02) * force / 0.05 + HEIGHT_MIN, rel=1e-3
    )
    for _ in range(50):
        node.update("near", at(0.05, height=0.02, error=0.01), 0.001)
    assert node.coord.height >= HEIGHT_MIN


# What serf adds -----------------------------------------------------------------------------------


def test_one_delayed_ping_in_three_changes_nothing() -> None:
    """§13.9: latency filter: the median of the last three round trips of a node counts."""
    other = at(0.05, error=0.3)
    disturbed, calm = (settled(Vivaldi(rng=Random(1)), other, 0.06) for _ in range(2))
    for rtt in (0.06, 5.0, 0.06, 0.06):
        disturbed.update("other", other, rtt)
        calm.update("other", other, 0.06)
    assert disturbed.coord == calm.coord


def test_filters_of_nodes_are_their_own() -> None:
    """§13.9: the median is taken per node."""
    together, apart = Vivaldi(rng=Random(1)), Vivaldi(rng=Random(1))
    other = at(0.05, error=0.3)
    for number, rtt in enumerate((0.01, 0.01, 0.2)):
        together.update("x", other, rtt)
        apart.update(f"n{number}", other, rtt)
    assert distance(apart.coord, other) > distance(together.coord, other) + 0.02
    assert apart.coord.adjustment > together.coord.adjustment


def test_adjustment_is_half_of_the_mean_error_of_the_window() -> None:
    """§13.9: samples[i++ % 20] = rtt - raw ; adj = sum / (2 * 20)."""
    node = Vivaldi(rng=Random(1))
    other = at(0.05, error=0.5)
    samples: list[float] = []
    for number in range(ADJUSTMENT_SAMPLES + 7):
        rtt = 0.05 + number / 1000
        before = node.coord
        node.update(f"n{number}", other, rtt)
        pulled = _reference_pull(before, other, rtt)
        samples.append(rtt - _raw(pulled, other))
        expected = sum(samples[-ADJUSTMENT_SAMPLES:]) / (2 * ADJUSTMENT_SAMPLES)
        assert node.coord.adjustment == pytest.approx(expected, abs=1e-9)


def test_adjustment_mends_what_no_space_can_express() -> None:
    """§13.9: dist = raw + a.adj + b.adj: round trips that break the triangle inequality."""
    network = Network(3, lambda i, j: 0.1 if {i, j} == {0, 1} else 0.02)
    network.run(500)
    a, b, c = (node.coord for node in network.nodes)
    raw_errors = [abs(_raw(a, b) - 0.1), abs(_raw(a, c) - 0.02), abs(_raw(b, c) - 0.02)]
    errors = [abs(distance(a, b) - 0.1), abs(distance(a, c) - 0.02), abs(distance(b, c) - 0.02)]
    assert sum(raw_errors) > 0.05
    assert sum(errors) < 0.005


def test_gravity_draws_towards_the_origin_with_the_square_of_the_distance() -> None:
    """§13.9: force(-(dist(origin) / 150)^2, origin)."""
    for far in (10.0, 100.0):
        node = Vivaldi(rng=Random(1))
        # A far node that is sure of itself takes us there in steps.
        for number in range(3000):
            node.update(f"n{number % 50}", at(far, error=1e-9), 0.0)
        before = node.coord
        node.update("n0", at(far, error=1e-9), 0.0)
        pulled = _reference_pull(before, at(far, error=1e-9), 1e-6)
        fallen = math.dist(node.coord.vec or (), pulled.vec or ())
        assert fallen == pytest.approx((_raw(pulled, ORIGIN) / 150) ** 2, rel=0.05)


def test_a_pool_does_not_drift_away() -> None:
    """§13.9: gravity: the centre of all coordinates stays near the origin."""
    network = Network(10, plane(10, 3))
    for node in network.nodes:  # All of them are told first that the world lies elsewhere.
        settled(node, at(5.0, error=0.01), 0.05, rounds=200)
    start = _centre(network)
    network.run(3000)
    assert start > 3
    assert _centre(network) < start - 0.3


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 4),
            coords(largest=0.2),
            st.floats(0, 2),
        ),
        max_size=25,
    )
)
def test_updates_follow_the_formulas(steps: list[tuple[int, Coord, float]]) -> None:
    """§13.9: the whole update, against the formulas written down one by one."""
    node, reference = Vivaldi(rng=Random(1)), _Reference()
    node.update("first", at(0.01), 0.02)  # Leaves the origin, where directions are random.
    reference.update("first", at(0.01), 0.02)
    for number, other, rtt in steps:
        if math.dist(node.coord.vec or (), other.vec or ()) < 1e-4:
            continue
        if math.hypot(*(node.coord.vec or ())) < 1e-3:
            return
        node.update(f"n{number}", other, rtt)
        reference.update(f"n{number}", other, rtt)
        expected = reference.coord
        assert node.coord.vec == pytest.approx(expected.vec, rel=1e-6, abs=1e-6)
        assert node.coord.error == pytest.approx(expected.error, rel=1e-6, abs=1e-6)
        assert node.coord.adjustment == pytest.approx(expected.adjustment, rel=1e-6, abs=1e-6)
        assert node.coord.height == pytest.approx(expected.height, rel=1e-6, abs=1e-6)


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), wild_coords(), st.floats(-1, 12)), max_size=40),
    seed=st.integers(0, 9),
)
def test_whatever_is_told_leaves_a_coordinate_of_our_space(
    steps: list[tuple[int, Coord, float]], seed: int
) -> None:
    """§13.9: another dimension, NaN and Inf are rejected; a result with them is the origin."""
    node = Vivaldi(rng=Random(seed))
    for number, other, rtt in steps:
        before = node.coord
        try:
            after = node.update(f"n{number}", other, rtt)
        except MalformedPacket:
            assert node.coord is before
            assert not (other.is_compatible() and 0 <= rtt <= 10)
        else:
            assert after is node.coord
        assert node.coord.is_compatible()
        assert 0 <= node.coord.error <= ERROR_MAX
        assert node.coord.height >= HEIGHT_MIN


@pytest.mark.parametrize("rtt", [-1e-9, 10.000001, math.nan, math.inf, -math.inf])
def test_round_trips_out_of_range_are_rejected(rtt: float) -> None:
    """§13.9: accepted RTT 0..10 s."""
    node = Vivaldi(rng=Random(1))
    with pytest.raises(MalformedPacket, match="round trip to x"):
        node.update("x", ORIGIN, rtt)
    assert node.coord == ORIGIN


def test_round_trip_of_nothing_counts_as_a_microsecond() -> None:
    """§13.9: below 1e-6 counts as 1e-6."""
    a, b = Vivaldi(rng=Random(1)), Vivaldi(rng=Random(1))
    other = at(0.05, error=0.5)
    assert a.update("x", other, 0.0).error == b.update("x", other, 1e-6).error


def test_captured_coordinate_of_consul_can_be_measured_against() -> None:
    """§13.9: a real node's coordinate is one of our space."""
    node = Vivaldi(rng=Random(1))
    _, other = captured()
    settled(node, other, 0.0009)
    assert distance(node.coord, other) == pytest.approx(0.0009, rel=0.05)


# A second opinion ---------------------------------------------------------------------------------


def _raw(a: Coord, b: Coord) -> float:
    assert a.vec is not None
    assert b.vec is not None
    squares: float = sum((x - y) ** 2 for x, y in zip(a.vec, b.vec, strict=True))
    return math.sqrt(squares) + a.height + b.height


def _dist(a: Coord, b: Coord) -> float:
    adjusted = _raw(a, b) + a.adjustment + b.adjustment
    return int((adjusted if adjusted > 0 else _raw(a, b)) * 1e9) / 1e9


def _force(coord: Coord, force: float, other: Coord) -> Coord:
    assert coord.vec is not None
    assert other.vec is not None
    mag = sum((x - y) ** 2 for x, y in zip(coord.vec, other.vec, strict=True)) ** 0.5
    unit = [(x - y) / mag for x, y in zip(coord.vec, other.vec, strict=True)]
    return Coord(
        vec=tuple(x + force * u for x, u in zip(coord.vec, unit, strict=True)),
        height=max(1e-5, (coord.height + other.height) * force / mag + coord.height),
        error=coord.error,
        adjustment=coord.adjustment,
    )


def _reference_pull(coord: Coord, other: Coord, rtt: float) -> Coord:
    dist = _dist(coord, other)
    wrong = abs(dist - rtt) / rtt
    w = coord.error / max(coord.error + other.error, 1e-6)
    error = min(1.5, 0.25 * w * wrong + coord.error * (1 - 0.25 * w))
    pulled = _force(coord, 0.25 * w * (rtt - dist), other)
    return Coord(vec=pulled.vec, height=pulled.height, error=error, adjustment=coord.adjustment)


class _Reference:
    """The formulas of §13.9 in their order, without a thought of speed."""

    def __init__(self) -> None:
        self.coord = ORIGIN
        self.samples = [0.0] * 20
        self.count = 0
        self.latencies: dict[str, list[float]] = {}

    def update(self, node: str, other: Coord, rtt: float) -> None:
        latest = self.latencies.setdefault(node, [])
        latest.append(rtt)
        del latest[:-3]
        rtt = sorted(latest)[len(latest) // 2]
        coord = _reference_pull(self.coord, other, max(rtt, 1e-6))
        self.samples[self.count % 20] = rtt - _raw(coord, other)
        self.count += 1
        coord = Coord(
            vec=coord.vec,
            height=coord.height,
            error=coord.error,
            adjustment=sum(self.samples) / 40,
        )
        self.coord = _force(coord, -((_dist(coord, ORIGIN) / 150) ** 2), ORIGIN)


def _centre(network: Network) -> float:
    vecs = [node.coord.vec or () for node in network.nodes]
    return math.hypot(*(statistics.fmean(values) for values in zip(*vecs, strict=True)))
