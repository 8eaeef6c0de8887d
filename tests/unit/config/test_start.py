"""What is right and yet keeps this release from starting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isthmus.config import AgentConfig, unreadable, unsupported

Load = Callable[..., AgentConfig]


def test_one_server_can_start(load_values: Load) -> None:
    assert unsupported(load_values({"server": True, "bootstrap": True})) == []


def test_client_agent_can_start(load_values: Load) -> None:
    assert unsupported(load_values({"retry_join": ["10.0.0.1"]})) == []


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        (
            {"server": True, "retry_join": ["provider=aws secret=s"]},
            "retry_join",
            "discovery by provider is not in this release: provider=aws",
        ),
    ],
)
def test_what_is_not_in_this_release_is_named(
    values: dict[str, Any], key: str, words: str, load_values: Load
) -> None:
    (mistake,) = unsupported(load_values(values))
    assert (mistake.source, mistake.key, mistake.text) == ("a.json", key, words)
    assert mistake.remedy


def test_missing_files_are_named(tmp_path: Path, load_values: Load) -> None:
    there, missing = tmp_path / "c.pem", tmp_path / "k.pem"
    there.touch()
    config = load_values(
        {"cert_file": str(there), "key_file": str(missing), "ca_path": str(tmp_path)}
    )
    (mistake,) = unreadable(config)
    assert mistake.key == "key_file"
    assert mistake.text == f"{missing} cannot be read: No such file or directory"
