"""What a reload changes at run time, and what needs a restart.

Source: protocol/cli-config-dns.md §2.5.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Final

from isthmus.config.keys import KEYS
from isthmus.config.model import AgentConfig, DnsConfig
from isthmus.config.records import placed

RELOADABLE: Final = frozenset(
    {
        "check.discard_output",
        "check.update_interval",
        "checks",
        "limits.http_max_conns_per_client",
        "limits.rpc_handshake_timeout",
        "limits.rpc_max_burst",
        "limits.rpc_max_conns_per_client",
        "limits.rpc_rate",
        "log.level",
        "node_meta",
        "services",
        "telemetry.filter_default",
        "telemetry.prefix_filter",
        "tls.allow_client_certificates_rpc",
        "tls.ca_file",
        "tls.ca_path",
        "tls.cert_file",
        "tls.key_file",
        "tls.verify_incoming",
        "tls.verify_incoming_https",
        "tls.verify_incoming_rpc",
        "tls.verify_outgoing",
        "tls.verify_server_hostname",
        "tls.server_name",
        "tls.min_version",
        "tls.cipher_suites",
        "watches",
        *(f"dns.{one.name}" for one in fields(DnsConfig)),
    }
)
"""Fields of `AgentConfig` that a running agent takes over."""

_NOT_SETTINGS: Final = ("warnings", "origins")


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two configurations, by field path, sorted.

    Attributes:
        reloadable: Taken over by a reload.
        restart: Changed in the files, and without effect until the agent is restarted; by their
            keys, where they have one.
    """

    reloadable: tuple[str, ...]
    restart: tuple[str, ...]


def reloadable_changes(old: AgentConfig, new: AgentConfig) -> Changes:
    """Compare what runs with what the files say now."""
    changed = sorted(_differences(old, new, ""))
    return Changes(
        reloadable=tuple(path for path in changed if path in RELOADABLE),
        restart=tuple(sorted({_key_of(path) for path in changed if path not in RELOADABLE} - {""})),
    )


def take_over(old: AgentConfig, new: AgentConfig) -> AgentConfig:
    """What holds after a reload: the old configuration with the reloadable fields of the new."""
    fields_of_new: dict[str, object] = {}
    for path in RELOADABLE:
        value: object = new
        for name in path.split("."):
            value = getattr(value, name)
        fields_of_new[path] = value
    return placed(old, fields_of_new)


def _key_of(path: str) -> str:
    """The key that a field is written under; empty for what only follows from other fields."""
    keys = [key.name for key in KEYS.values() if key.field == path]
    return keys[0] if keys else ""


def _differences(old: object, new: object, prefix: str) -> Iterator[str]:
    assert is_dataclass(old)
    for one in fields(old):
        if not prefix and one.name in _NOT_SETTINGS:
            continue
        path = f"{prefix}{one.name}"
        before, after = getattr(old, one.name), getattr(new, one.name)
        if is_dataclass(before):
            yield from _differences(before, after, f"{path}.")
        elif before != after:
            yield path
