"""The command as operators run it: real simulations, the same again, the shipped scenarios."""

import json
import shlex
from pathlib import Path

import pytest

from isthmus.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples" / "sim"
PARTITION = (
    *("sim", "--datacenters", "4", "--servers", "3", "--seed", "7", "--duration", "2m"),
    *("--fault", "partition dc1|dc2 for 60s", "--fault", "crash server 3 of dc3 at 20s"),
)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """Exit code and what stood on standard output."""
    code = main(args)
    return code, capsys.readouterr().out


def test_same_seed_same_run_and_the_replay_command_repeats_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, first = run(capsys, *PARTITION, "-json")
    assert code == 0
    replay = shlex.split(json.loads(first)["Replay"])
    assert run(capsys, *replay[1:], "-json") == (0, first)
    assert run(capsys, *PARTITION[:5], "--seed", "8", "-json")[1] != first


def test_report_shows_what_the_run_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "out.html"
    code, out = run(capsys, *PARTITION, "-report", str(path), "-json")
    figures = json.loads(out)
    assert (code, figures["Held"]) == (0, True)
    # Two servers remain in the LAN of the one that crashed; everybody else knows it from the WAN.
    assert figures["Lan"]["Detection"]["Count"] == 2
    assert figures["Wan"]["Detection"]["Count"] == 11
    text = path.read_text()
    assert "1 lost host, 2 observations" in text
    assert "1 lost host, 11 observations" in text


@pytest.mark.parametrize(
    "name", ["gateway_lost_during_join", "one_way_partition", "rolling_restart"]
)
def test_shipped_scenario_shows_what_it_expects(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(capsys, "sim", "-scenario", str(EXAMPLES / f"{name}.toml"), "-json")
    assert code == 0, out


def test_too_strict_an_expectation_fails(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, *PARTITION, "-expect", "detection=1s", "-json")
    verdicts = {one["Name"]: one["Held"] for one in json.loads(out)["Verdicts"]}
    assert (code, verdicts.pop("detection")) == (1, False)
    assert all(verdicts.values())
