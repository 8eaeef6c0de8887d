"""What a reload takes over."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass

from isthmus.config import AgentConfig, reloadable_changes
from isthmus.config.reload import RELOADABLE, Changes

Load = Callable[..., AgentConfig]


def test_changes_are_sorted_into_reload_and_restart(load_values: Load) -> None:
    old = load_values({"log_level": "info", "ports": {"http": 8500}, "services": [{"name": "a"}]})
    new = load_values({"log_level": "debug", "ports": {"http": 8501}, "autopilot": {}})
    assert reloadable_changes(old, new) == Changes(("log.level", "services"), ("ports.http",))


def test_the_same_files_change_nothing(load_values: Load) -> None:
    assert reloadable_changes(load_values(), load_values()) == Changes((), ())


def paths(record: object, prefix: str = "") -> set[str]:
    assert is_dataclass(record)
    found = set[str]()
    for one in fields(record):
        value = getattr(record, one.name)
        path = f"{prefix}{one.name}"
        found |= paths(value, f"{path}.") if is_dataclass(value) else {path}
    return found


def test_every_reloadable_field_exists() -> None:
    assert paths(AgentConfig()) >= RELOADABLE
