"""Trees become settings: what is taken, merged, refused, suggested."""

from typing import Any

import pytest

from isthmus.config.settings import Setting, Settings
from isthmus.config.sources import Tree
from isthmus.errors import Mistake


def make_settings(*trees: dict[str, Any]) -> Settings:
    """Read trees in order; the first is named ``a``, the next ``b``."""
    settings = Settings()
    for name, values in zip("abc", trees, strict=False):
        settings.add_tree(Tree(name, values))
    return settings


def values_of(settings: Settings) -> dict[str, object]:
    assert settings.mistakes == []
    return {name: setting.value for name, setting in settings.values.items()}


def mistake_of(values: dict[str, Any]) -> Mistake:
    (mistake,) = make_settings(values).mistakes
    return mistake


def test_setting_remembers_where_it_was_set_last() -> None:
    settings = make_settings({"datacenter": "dc1"}, {"datacenter": "dc2"}, {"server": True})
    assert settings.values == {
        "datacenter": Setting("dc2", "b"),
        "server": Setting(True, "c"),
    }


def test_lists_are_appended_and_maps_are_added_up() -> None:
    settings = make_settings(
        {"retry_join": ["a"], "node_meta": {"x": "1", "y": "1"}},
        {"retry_join": ["b"], "node_meta": {"y": "2", "z": "2"}},
    )
    assert values_of(settings) == {
        "retry_join": ["a", "b"],
        "node_meta": {"x": "1", "y": "2", "z": "2"},
    }


def test_sections_are_read_as_objects_and_as_repeated_blocks() -> None:
    wanted = {"ports.http": 1, "ports.server": 2}
    assert values_of(make_settings({"ports": {"http": 1, "server": 2}})) == wanted
    assert values_of(make_settings({"ports": [{"http": 1}, {"server": 2}]})) == wanted


def test_case_of_a_key_does_not_matter() -> None:
    assert values_of(make_settings({"Datacenter": "dc1", "PORTS": {"Http": 1}})) == {
        "datacenter": "dc1",
        "ports.http": 1,
    }


def test_other_spelling_is_the_same_key() -> None:
    settings = make_settings({"ca_file": "a.pem"}, {"tls": {"defaults": {"ca_file": "b.pem"}}})
    assert settings.values == {"ca_file": Setting("b.pem", "b")}


def test_null_sets_nothing() -> None:
    assert values_of(make_settings({"datacenter": "dc1"}, {"datacenter": None})) == {
        "datacenter": "dc1"
    }


def test_value_of_a_flag_counts_like_one_of_a_file() -> None:
    settings = make_settings({"datacenter": "dc1", "retry_join": ["a"]})
    settings.add_value("datacenter", "dc2", source="flag")
    settings.add_value("retry_join", ["b"], source="flag")
    assert settings.values == {
        "datacenter": Setting("dc2", "flag"),
        "retry_join": Setting(["a", "b"], "flag"),
    }


@pytest.mark.parametrize(
    ("values", "mistake"),
    [
        (
            {"datacentre": "dc1"},
            Mistake(
                "a", "datacentre", "invalid config key datacentre", 'did you mean "datacenter"?'
            ),
        ),
        (
            {"mesh_gateway_wan_federation": True},
            Mistake(
                "a",
                "mesh_gateway_wan_federation",
                "invalid config key mesh_gateway_wan_federation",
                'did you mean "connect.enable_mesh_gateway_wan_federation"?',
            ),
        ),
        (
            {"zzz": 1},
            Mistake("a", "zzz", "invalid config key zzz", "see docs/configuration.md for all keys"),
        ),
        ({"ports": 8500}, Mistake("a", "ports", "ports must be an object { … }")),
        (
            {"retry_interval": "soon"},
            Mistake(
                "a",
                "retry_interval",
                'retry_interval: invalid duration: "soon": time: invalid duration "soon"',
                'write a number and a unit, like "30s", "5m" or "1h30m"',
            ),
        ),
        (
            {"ports": {"http": 70000}},
            Mistake(
                "a",
                "ports.http",
                "ports.http must be a port from 1 to 65535, or -1 for none, not 70000",
            ),
        ),
    ],
)
def test_mistake_says_where_it_is_and_what_would_be_right(
    values: dict[str, Any], mistake: Mistake
) -> None:
    assert mistake_of(values) == mistake


@pytest.mark.parametrize("value", [0, -1])
def test_limit_that_would_let_nothing_pass_is_refused(value: int) -> None:
    found = mistake_of({"limits": {"http_max_conns_per_client": value}})
    assert found.text == "limits.http_max_conns_per_client must be greater than zero"


def test_mistakes_do_not_keep_the_rest_from_being_read() -> None:
    settings = make_settings({"zzz": 1, "ports": [7, {"http": 1}], "datacenter": "dc1"})
    assert [mistake.key for mistake in settings.mistakes] == ["zzz", "ports"]
    assert {name: one.value for name, one in settings.values.items()} == {
        "ports.http": 1,
        "datacenter": "dc1",
    }


def test_same_warning_is_given_once() -> None:
    tree = {"ui_config": {"enabled": True}}
    settings = Settings()
    settings.add_tree(Tree("a", tree))
    settings.add_tree(Tree("a", tree))
    assert settings.warnings == [
        "ui_config.enabled: accepted, but this release does not act on it yet (a)"
    ]


def test_port_that_is_not_opened_needs_no_warning() -> None:
    assert make_settings({"ports": {"grpc": -1}}).warnings == []
    assert make_settings({"ports": {"grpc": 8502}}).warnings == [
        "ports.grpc: accepted, but this release does not act on it yet (a)"
    ]
