"""What is remembered of dials and calls."""

from isthmus.federation.outcomes import (
    DATACENTERS_MAX,
    GATEWAYS_MAX,
    TEXT_SIZE_MAX,
    Outcomes,
    Trouble,
    TroubleBegan,
    TroubleEnded,
)


def fail(
    outcomes: Outcomes, *, now: float, step: str = "connect", by_call: bool = False
) -> Trouble:
    return outcomes.failed(
        "dc2", node="beta", gateway="g:1", step=step, text="why", by_call=by_call, now=now
    )


def test_trouble_lasts_from_its_first_failure() -> None:
    outcomes = Outcomes()
    fail(outcomes, now=10.0)
    assert fail(outcomes, now=15.0) == Trouble(
        "dc2", "beta", "g:1", "connect", "why", since=10.0, latest=15.0, count=2
    )
    assert outcomes.trouble("DC2") == outcomes.troubles()[0]


def test_trouble_is_told_when_it_begins_turns_and_ends_and_not_in_between() -> None:
    outcomes = Outcomes()
    first = fail(outcomes, now=10.0)
    fail(outcomes, now=11.0)
    assert outcomes.take_outputs() == [TroubleBegan(first)]
    other = fail(outcomes, now=12.0, step="tls")
    assert outcomes.take_outputs() == [TroubleBegan(other)]
    outcomes.answered("dc2", "beta", now=20.0)
    assert outcomes.take_outputs() == [TroubleEnded(other, 10.0)]
    outcomes.answered("dc2", "beta", now=21.0)
    assert outcomes.take_outputs() == []
    assert outcomes.trouble("dc2") is None


def test_dial_that_works_ends_the_trouble_of_dials_only() -> None:
    """A server may refuse our certificate after the handshake, so a dial proves nothing then."""
    outcomes = Outcomes()
    fail(outcomes, now=10.0)
    outcomes.gateway_dialled("g:1", "dc2", "beta", seconds=0.1, now=11.0)
    assert outcomes.trouble("dc2") is None
    fail(outcomes, now=12.0, step="tls", by_call=True)
    outcomes.gateway_dialled("g:1", "dc2", "beta", seconds=0.1, now=13.0)
    assert outcomes.trouble("dc2") is not None


def test_refusals_last_until_a_call_is_allowed() -> None:
    outcomes = Outcomes()
    assert outcomes.refused("dc2", "beta", now=5.0) == 0.0
    assert outcomes.refused("dc2", "beta", now=9.0) == 4.0
    news = [outcomes.has_news_in_an_answer]
    outcomes.answered("dc2", "beta", now=10.0)
    news.append(outcomes.has_news_in_an_answer)
    assert news == [True, False]
    assert outcomes.refused("dc2", "beta", now=11.0) == 0.0


def test_refusal_proves_that_the_way_works() -> None:
    outcomes = Outcomes()
    fail(outcomes, now=1.0)
    outcomes.refused("dc2", "beta", now=2.0)
    assert outcomes.trouble("dc2") is None


def test_gateway_is_counted() -> None:
    outcomes = Outcomes()
    outcomes.gateway_dialled("g:1", "dc2", "beta", seconds=0.25, now=1.0)
    outcomes.gateway_dialled("g:1", "dc3", "c", seconds=3.0, error="x" * 5000, now=2.0)
    outcomes.gateway_dialled("g:1", "dc3", "c", seconds=3.0, error="refused", now=3.0)
    (record,) = outcomes.gateways()
    assert (record.dcs, record.attempts, record.failures) == ({"dc2", "dc3"}, 3, 2)
    assert (record.used_at, record.dial_seconds, record.failing_since) == (3.0, 0.25, 2.0)
    assert (record.error, record.error_at) == ("refused", 3.0)
    outcomes.gateway_dialled("g:1", "dc2", "beta", seconds=0.5, now=4.0)
    (record,) = outcomes.gateways()
    assert (record.failing_since, record.error, record.dial_seconds) == (None, "refused", 0.5)


def test_memory_is_bounded() -> None:
    outcomes = Outcomes()
    for number in range(GATEWAYS_MAX + 5):
        outcomes.gateway_dialled(
            f"g:{number}", "dc2", "beta", seconds=0.1, error="x" * 9999, now=1.0
        )
    assert len(outcomes.gateways()) == GATEWAYS_MAX
    assert all(len(record.error) <= TEXT_SIZE_MAX for record in outcomes.gateways())
    assert "g:0" not in {record.address for record in outcomes.gateways()}
    for number in range(DATACENTERS_MAX + 5):
        outcomes.failed(
            f"d{number}", node="", gateway="", step="tls", text="", by_call=False, now=1.0
        )
        outcomes.refused(f"r{number}", "x", now=1.0)
    assert len(outcomes.troubles()) == DATACENTERS_MAX


def test_one_server_that_is_down_is_no_trouble_of_its_datacenter() -> None:
    outcomes = Outcomes()
    fail(outcomes, now=10.0)
    outcomes.gateway_dialled("g:1", "dc2", "gamma", seconds=0.1, now=11.0)
    assert outcomes.trouble("dc2") is None
    assert len(outcomes.take_outputs()) == 1
    fail(outcomes, now=12.0)
    assert outcomes.take_outputs() == []  # It is known, and was told once.
    outcomes.gateway_dialled("g:1", "dc2", "beta", seconds=0.1, now=13.0)
    (ended,) = outcomes.take_outputs()
    assert isinstance(ended, TroubleEnded)


def test_trouble_of_a_datacenter_is_dated_by_its_last_success() -> None:
    outcomes = Outcomes()
    fail(outcomes, now=10.0)
    outcomes.answered("dc2", "gamma", now=50.0)
    fail(outcomes, now=60.0)
    trouble = outcomes.trouble("dc2")
    assert trouble is not None
    assert trouble.since == 50.0


def test_any_server_that_is_reached_ends_the_search_for_any_server() -> None:
    outcomes = Outcomes()
    outcomes.failed("dc2", node="*", gateway="", step="tls", text="", by_call=False, now=1.0)
    outcomes.gateway_dialled("g:1", "dc2", "beta", seconds=0.1, now=2.0)
    assert outcomes.trouble("dc2") is None


def test_departed_datacenter_is_forgotten() -> None:
    outcomes = Outcomes()
    fail(outcomes, now=10.0)
    outcomes.forget("DC2")
    assert outcomes.troubles() == ()


def test_one_trouble_is_told_once_for_a_server_and_for_any_server() -> None:
    for first, second in (("beta", "*"), ("*", "beta")):
        outcomes = Outcomes()
        for node in (first, second):
            outcomes.failed(
                "dc2", node=node, gateway="g:1", step="tls", text="why", by_call=False, now=1.0
            )
        assert len(outcomes.take_outputs()) == 1
        outcomes.failed(
            "dc2", node=second, gateway="g:1", step="connect", text="why", by_call=False, now=2.0
        )
        assert len(outcomes.take_outputs()) == 1
