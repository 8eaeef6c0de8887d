"""What a reload takes over."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass

from isthmus.config import AgentConfig, reloadable_changes
from isthmus.config.reload import RELOADABLE, Changes, take_over

Load = Callable[..., AgentConfig]


def test_changes_are_sorted_into_reload_and_restart(load_values: Load) -> None:
    old = load_values({"log_level": "info", "ports": {"http": 8500}, "services": [{"name": "a"}]})
    new = load_values({"log_level": "debug", "ports": {"http": 8501}, "autopilot": {}})
    assert reloadable_changes(old, new) == Changes(("log.level", "services"), ("ports.http",))


def test_the_same_files_change_nothing(load_values: Load) -> None:
    assert reloadable_changes(load_values(), load_values()) == Changes((), ())


def test_reload_takes_over_what_it_can_and_leaves_the_rest(load_values: Load) -> None:
    old = load_values({"limits": {"rpc_rate": 5, "kv_max_value_size": 10}, "log_level": "info"})
    files = {"limits": {"rpc_rate": 7, "kv_max_value_size": 20}, "services": [{"name": "a"}]}
    new = load_values({**files, "telemetry": {"prefix_filter": ["-consul.rpc"]}})
    held = take_over(old, new)
    assert (held.limits.rpc_rate, held.limits.kv_max_value_size) == (7.0, 10)
    assert (held.services, held.telemetry) == (new.services, new.telemetry)
    assert reloadable_changes(held, new) == Changes((), ("limits.kv_max_value_size",))


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
