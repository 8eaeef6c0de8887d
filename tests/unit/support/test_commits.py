"""The check of a history finds what it is for."""

import pytest

from support.commits import History

CLAIMS = [(4, 1, "a"), (6, 2, "b")]


def test_commits_of_who_led_are_right() -> None:
    History([(3, 1, 0), (5, 2, 1), (7, 3, 2), (9, 4, 2)], CLAIMS).check()


@pytest.mark.parametrize(
    ("commits", "claims"),
    [
        ([(5, 2, 1), (7, 3, 1)], CLAIMS),
        ([(5, 2, 1), (7, 2, 2)], CLAIMS),
        ([(5, 3, 1), (7, 2, 2)], CLAIMS),
        ([(7, 2, 2)], [(4, 2, "a"), (6, 2, "b")]),
        ([], CLAIMS),
    ],
    ids=["of a leader that was replaced", "twice", "backwards", "one epoch", "nothing"],
)
def test_commits_that_should_not_be_are_found(
    commits: list[tuple[int, int, int]], claims: list[tuple[int, int, str]]
) -> None:
    with pytest.raises(AssertionError):
        History(commits, claims).check()
