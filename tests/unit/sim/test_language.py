"""The fault language: what it means, and where it points when it cannot be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.sim.faults import (
    Bandwidth,
    Crash,
    Drift,
    Duplication,
    Fault,
    Hosts,
    Latency,
    Leave,
    Links,
    Loss,
    Move,
    Partition,
    Pause,
    Reordering,
    Restart,
    Scope,
)
from isthmus.sim.language import FaultError, parse_fault, parse_links
from isthmus.sim.topology import Role, Topology

FIVE = Topology(datacenters=5, servers=3, gateways=2)

# Times in whole milliseconds, as people write them.
_moments = st.integers(0, 7 * 86_400_000).map(lambda count: count / 1000)
_lengths = st.none() | st.integers(1, 7 * 86_400_000).map(lambda count: count / 1000)
_apart = st.integers(0, 3_600_000).map(lambda count: count / 1000)
_shares = st.integers(1, 100_000).map(lambda count: count / 100_000)
_numbers = st.sets(st.integers(1, 5), min_size=1, max_size=5)


def _names(numbers: set[int]) -> tuple[str, ...]:
    return tuple(f"dc{number}" for number in sorted(numbers))


@st.composite
def links(draw: st.DrawFn) -> Links:
    """Any links of `FIVE`."""
    scope = draw(st.sampled_from(Scope))
    if scope is Scope.EVERYWHERE:
        return Links(scope=scope)
    left = draw(st.just(set()) | _numbers)
    if scope is Scope.WITHIN:
        return Links(_names(left), scope=scope)
    right = draw(st.just(set()) | _numbers) - left
    return Links(_names(left), _names(right), draw(st.booleans()))


@st.composite
def hosts(draw: st.DrawFn) -> Hosts:
    """Any hosts of `FIVE`."""
    role = draw(st.sampled_from([Role.SERVER, Role.GATEWAY]))
    number = draw(st.none() | st.integers(1, FIVE.count(role)))
    return Hosts(role, number, _names(draw(st.just(set()) | _numbers)))


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    """Any fault of `FIVE`."""
    at, duration = draw(_moments), draw(_lengths)
    kind = draw(st.integers(0, 11))
    if kind < 6:
        on = draw(links())
        share = draw(_shares)
        limit = draw(st.integers(1, 10**9))
        extra = draw(st.integers(1, 60_000)) / 1000
        return (
            Partition(links=on, at=at, duration=duration),
            Loss(links=on, share=share, at=at, duration=duration),
            Duplication(links=on, share=share, at=at, duration=duration),
            Reordering(links=on, share=share, at=at, duration=duration),
            Latency(links=on, extra=extra, at=at, duration=duration),
            Bandwidth(links=on, limit=limit, at=at, duration=duration),
        )[kind]
    of = draw(hosts())
    single = of.number is not None and len(of.datacenters) == 1
    apart = 0.0 if single else draw(_apart)
    if kind == 6:
        factor = draw(st.integers(50, 200).filter(lambda count: count != 100)) / 100
        return Drift(hosts=of, factor=factor, at=at, duration=duration, apart=apart)
    if kind < 9:
        ended = (Leave, Move)[kind - 7]
        return ended(hosts=of, at=at, apart=apart)
    return (Pause, Crash, Restart)[kind - 9](hosts=of, at=at, duration=duration, apart=apart)


@given(faults())
def test_fault_prints_as_the_text_that_parses_to_it(fault: Fault) -> None:
    assert parse_fault(str(fault), FIVE) == fault


@given(st.text(max_size=60) | st.lists(st.sampled_from(
    ["partition", "loss", "5%", "dc1", "|", ">", "dc2..dc9", "*", "at", "for", "10s", "apart",
     "every", "server", "of", "2", ",", "within", "everywhere", "drift", "1.05"]
)).map(" ".join))  # fmt: skip
def test_any_text_is_a_fault_or_an_error_that_points_into_it(text: str) -> None:
    result = _parsed(text)
    if isinstance(result, FaultError):
        assert 0 <= result.start < result.end <= len(result.text) + 2
        assert str(result).endswith("^")
    else:
        assert parse_fault(str(result), FIVE) == result


def _parsed(text: str) -> Fault | FaultError:
    try:
        return parse_fault(text, FIVE)
    except FaultError as error:
        return error


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "partition dc1|dc2 for 60s",
            Partition(links=Links(("dc1",), ("dc2",)), at=10.0, duration=60.0),
        ),
        (
            "partition dc1>dc2 at 30s for 60s",
            Partition(links=Links(("dc1",), ("dc2",), one_way=True), at=30.0, duration=60.0),
        ),
        ("partition dc1 | * for 2m", Partition(links=Links(("dc1",)), duration=120.0)),
        ("loss 5% everywhere", Loss(links=Links(scope=Scope.EVERYWHERE), share=0.05)),
        (
            "loss 0.5% within dc1..dc3,dc5 at 0s",
            Loss(
                links=Links(("dc1", "dc2", "dc3", "dc5"), scope=Scope.WITHIN), share=0.005, at=0.0
            ),
        ),
        ("latency +200ms dc1|dc3", Latency(links=Links(("dc1",), ("dc3",)), extra=0.2)),
        ("bandwidth 64kB/s dc1>*", Bandwidth(links=Links(("dc1",), (), True), limit=64_000)),
        (
            "pause server 2 of dc3 at 10s for 45s",
            Pause(hosts=Hosts(Role.SERVER, 2, ("dc3",)), at=10.0, duration=45.0),
        ),
        ("move gateway 1 of dc4 at 2m", Move(hosts=Hosts(Role.GATEWAY, 1, ("dc4",)), at=120.0)),
        ("leave server 3 of dc2", Leave(hosts=Hosts(Role.SERVER, 3, ("dc2",)))),
        ("drift server 1 of dc2 1.05", Drift(hosts=Hosts(Role.SERVER, 1, ("dc2",)), factor=1.05)),
        (
            "restart every server 10s apart for 5s at 1m",
            Restart(hosts=Hosts(Role.SERVER, None), at=60.0, duration=5.0, apart=10.0),
        ),
    ],
)
def test_examples_mean_what_they_say(text: str, fault: Fault) -> None:
    assert parse_fault(text, FIVE) == fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partion dc1|dc2", "'partion' is no fault; did you mean 'partition'?\n^^^^^^^"),
        ("partition dc1|dc9", "there is no dc9; there are dc1 to dc5\n              ^^^"),
        (
            "partition dc1|dc1",
            "dc1 is on both sides; its own network is 'within dc1'\n              ^^^",
        ),
        (
            "pause server 4 of dc3",
            "there is no server 4; every datacenter has servers 1 to 3\n             ^",
        ),
        ("crash client 1 of dc3", "no datacenter has a client\n      ^^^^^^"),
        (
            "crash gateway 1 of dc2 fro 3s",
            "'fro' is not known here; behind the fault come 'at 30s', 'for 2m' or '10s apart'\n"
            "                       ^^^",
        ),
        ("loss 5 dc1|dc2", "'5' is no share; write it as 5% or 0.5%\n     ^"),
        ("loss 0% dc1|dc2", "0% changes nothing\n     ^^"),
        (
            "leave server 1 of dc1 for 3s",
            "'leave' has no end: a host that left stays away; start it again with 'restart'\n"
            "                      ^^^",
        ),
        ("partition dc1|dc2 at 3s at 4s", "'at' stands here twice\n                        ^^"),
        ("partition dc1|dc2 for 0s", "'for' needs more than 0s\n                      ^^"),
        ("crash every server of dc5..dc2",
            "dc2 comes before dc5: write dc2..dc5\n" + " " * 22 + "^" * 8),
        (
            "crash server 1 of dc1 3s apart",
            "a single host is not apart from itself; say 'every' or more datacenters\n"
            + " " * 25 + "^" * 5,
        ),
        ("crash every server of dc1,dc1", "dc1 is named twice\n" + " " * 26 + "^^^"),
    ],
)  # fmt: skip
def test_mistake_is_pointed_at(text: str, says: str) -> None:
    reason, mark = says.split("\n")
    with pytest.raises(FaultError) as caught:
        parse_fault(text, FIVE)
    assert str(caught.value) == f"{reason}\n  {text}\n  {mark}"


@pytest.mark.parametrize(
    "text", ["", "partition", "partition dc1", "loss 5%", "crash server", "drift server 1 of dc1"]
)
def test_missing_word_is_named_behind_the_text(text: str) -> None:
    with pytest.raises(FaultError, match="here something is missing: ") as caught:
        parse_fault(text, FIVE)
    assert caught.value.start >= len(text)


def test_one_datacenter_has_no_links_between() -> None:
    with pytest.raises(FaultError, match="there is only dc1"):
        parse_fault("partition *|*", Topology(datacenters=1))


def test_overlong_text_is_refused() -> None:
    with pytest.raises(FaultError, match="longer than 1000 characters"):
        parse_fault("partition " + "dc1," * 1000, FIVE)


def test_links_alone_are_read_to_their_end() -> None:
    assert parse_links("dc1>dc2", FIVE) == Links(("dc1",), ("dc2",), one_way=True)
    with pytest.raises(FaultError, match="'for' is too much here"):
        parse_links("dc1|dc2 for 3s", FIVE)


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("dc1|dc2", {("dc1", "dc2"), ("dc2", "dc1")}),
        ("dc1>dc2", {("dc1", "dc2")}),
        ("dc1>*", {("dc1", "dc2"), ("dc1", "dc3")}),
        ("*>dc1", {("dc2", "dc1"), ("dc3", "dc1")}),
        ("within dc2", {("dc2", "dc2")}),
        ("within *", {("dc1", "dc1"), ("dc2", "dc2"), ("dc3", "dc3")}),
        ("dc1,dc2|dc3", {("dc1", "dc3"), ("dc2", "dc3"), ("dc3", "dc1"), ("dc3", "dc2")}),
    ],
)
def test_links_cover_the_directions_they_name(text: str, covered: set[tuple[str, str]]) -> None:
    names = ("dc1", "dc2", "dc3")
    links = parse_links(text, Topology(datacenters=3))
    pairs = {(source, target) for source in names for target in names}
    assert {pair for pair in pairs if links.covers(*pair)} == covered


def test_everywhere_covers_every_link_there_is() -> None:
    everywhere = parse_links("everywhere")
    assert everywhere.covers("dc1", "dc1")
    assert everywhere.covers("dc1", "dc2")
