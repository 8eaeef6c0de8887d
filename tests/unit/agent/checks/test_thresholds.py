"""How many results in a row it takes until a check is believed."""

from typing import Any

import pytest

from isthmus.agent.checks.thresholds import Thresholds
from isthmus.model.agent import CheckDefinition

WORDS = {"p": "passing", "w": "warning", "c": "critical"}


def shown(results: str, **numbers: Any) -> str:
    """First letters of what is shown after each result; a blank leaves what was shown."""
    thresholds = Thresholds(CheckDefinition(**numbers))
    return "".join((thresholds.judge(WORDS[letter]) or " ")[0] for letter in results)


@pytest.mark.parametrize("first", "pwc")
def test_first_result_counts_at_once(first: str) -> None:
    numbers = {"success_before_passing": 3, "failures_before_critical": 3}
    assert shown(first, **numbers) == first


def test_without_numbers_every_result_counts() -> None:
    assert shown("pcwcp") == "pcwcp"


def test_failures_in_a_row_are_counted() -> None:
    assert shown("pccpcccc", failures_before_critical=3) == "p  p  cc"


def test_successes_in_a_row_are_counted_warnings_too() -> None:
    assert shown("cpwcpwpp", success_before_passing=3) == "c  c  pp"


def test_warning_comes_before_critical() -> None:
    numbers = {"failures_before_warning": 2, "failures_before_critical": 4}
    assert shown("pccccc", **numbers) == "p wwcc"
