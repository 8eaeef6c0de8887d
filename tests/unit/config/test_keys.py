"""The table of keys is consistent with the records it fills, and with its page."""

from pathlib import Path

from isthmus.config.keys import ALIASES, FLAGS, KEYS
from isthmus.config.model import AgentConfig
from isthmus.config.reference import default_of, reference_page


def test_every_field_exists() -> None:
    for key in KEYS.values():
        value: object = AgentConfig()
        for name in key.field.split(".") if key.field else ():
            assert hasattr(value, name), key
            value = getattr(value, name)


def test_every_alias_leads_to_a_key() -> None:
    assert set(ALIASES.values()) <= set(KEYS)


def test_flags_are_consuls() -> None:
    documented = (
        "server bootstrap bootstrap-expect node node-id node-meta datacenter domain alt-domain "
        "data-dir bind client advertise advertise-wan serf-lan-bind serf-wan-bind serf-lan-port "
        "serf-wan-port server-port http-port https-port dns-port grpc-port join join-wan "
        "retry-join retry-join-wan retry-interval retry-interval-wan retry-max retry-max-wan "
        "rejoin primary-gateway encrypt disable-keyring-file recursor ui ui-dir ui-content-path "
        "log-level log-json log-file log-rotate-bytes log-rotate-duration log-rotate-max-files "
        "syslog pid-file protocol raft-protocol enable-script-checks enable-local-script-checks "
        "allow-write-http-from check_output_max_size default-query-time max-query-time "
        "disable-host-node-id serf-lan-allowed-cidrs serf-wan-allowed-cidrs read-replica segment"
    )
    assert set(documented.split()) == set(FLAGS)


def test_defaults_are_those_of_the_documents() -> None:
    shown = {name: default_of(KEYS[name]) for name in KEYS}
    assert shown["primary_gateways_interval"] == '"30s"'
    assert shown["ports.https"] == "-1"
    assert shown["reconnect_timeout"] == '"72h0m0s"'
    assert shown["client_addr"] == '"127.0.0.1"'
    assert shown["limits.rpc_rate"] == "-1"
    assert shown["primary_datacenter"] == shown["encrypt"] == ""


def test_the_reference_page_is_up_to_date() -> None:
    """Otherwise: python -m isthmus.config.reference > docs/configuration.md."""
    page = Path(__file__).parents[3] / "docs/configuration.md"
    assert page.read_text() == reference_page()
