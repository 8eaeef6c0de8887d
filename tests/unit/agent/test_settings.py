"""From the operator's configuration to the records of the components."""

import asyncio
import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent import settings
from isthmus.config import ConfigText, Surroundings, load
from isthmus.config.model import (
    AddressConfig,
    AgentConfig,
    ConnectConfig,
    GossipConfig,
    GossipTimers,
    HttpConfig,
    LimitConfig,
    PortConfig,
    TlsConfig,
)
from isthmus.engine.memory import MemoryEngine
from isthmus.engine.sqlite import SqliteEngine
from isthmus.errors import ConfigError
from isthmus.gossip import config as gossip
from isthmus.http import server as http
from isthmus.http.unix_socket import SocketOwner
from isthmus.net import tls
from isthmus.store.engine import Engine

CLUSTER = "11111111-2222-3333-4444-555555555555"
WALL = datetime(2026, 11, 23, tzinfo=UTC)


# TLS ------------------------------------------------------------------------------------------


def test_tls_is_told_all_that_the_operator_says() -> None:
    config = AgentConfig(
        datacenter="dc2",
        node_name="alpha",
        domain="example.net",
        tls=TlsConfig(
            ca_file="ca.pem",
            ca_path="cas",
            cert_file="cert.pem",
            key_file="key.pem",
            verify_incoming=True,
            verify_incoming_rpc=True,
            verify_outgoing=True,
            verify_server_hostname=True,
            allow_client_certificates_rpc=True,
            server_name="other",
            min_version="tls13",
            cipher_suites=("TLS_RSA_WITH_AES_128_CBC_SHA",),
        ),
    )
    told = settings.tls_config(config)
    assert told == tls.TlsConfig(
        ca_file="ca.pem",
        ca_path="cas",
        cert_file="cert.pem",
        key_file="key.pem",
        verify_incoming=True,
        verify_incoming_rpc=True,
        verify_outgoing=True,
        verify_server_hostname=True,
        server_name="other",
        tls_min_version="tls13",
        cipher_suites=("TLS_RSA_WITH_AES_128_CBC_SHA",),
        node_name="alpha",
        dc="dc2",
        domain="example.net",
        allow_client_certificates=True,
    )
    defaults = tls.TlsConfig()
    for field in dataclasses.fields(defaults):  # A new field does not go without its setting.
        assert getattr(told, field.name) != getattr(defaults, field.name), field.name


def test_tls_defaults_are_the_same_on_both_sides() -> None:
    told = settings.tls_config(AgentConfig(node_name="alpha"))
    assert told == tls.TlsConfig(node_name="alpha", dc="dc1")


# Storage --------------------------------------------------------------------------------------


def make_engine(config: AgentConfig) -> Engine:
    return settings.engine(config, entropy=Random(1).randbytes, wall=lambda: WALL)


def test_development_agent_keeps_nothing() -> None:
    assert isinstance(make_engine(AgentConfig(dev=True)), MemoryEngine)


def test_data_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    async def use() -> None:
        engine = make_engine(AgentConfig(data_dir=tmp_path, datacenter="dc2"))
        assert isinstance(engine, SqliteEngine)
        await engine.open()
        await engine.close()

    asyncio.run(use())
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("durable", [True, False])
async def test_new_store_gets_a_random_uuid(durable: bool, tmp_path: Path) -> None:
    def cluster(seed: int, folder: str) -> Engine:
        config = AgentConfig(data_dir=tmp_path / folder if durable else None)
        return settings.engine(config, entropy=Random(seed).randbytes, wall=lambda: WALL)

    found = []
    for seed, folder in ((1, "a"), (2, "b"), (1, "c")):
        engine = cluster(seed, folder)
        found.append((await engine.open()).cluster)
        await engine.close()
    assert found[0] == found[2] != found[1]
    assert [found[0][14], len(found[0])] == ["4", 36]  # Version 4: random.


async def test_old_store_keeps_its_uuid(tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        engine = settings.engine(
            AgentConfig(data_dir=tmp_path), entropy=Random(seed).randbytes, wall=lambda: WALL
        )
        found.append((await engine.open()).cluster)
        await engine.close()
    assert found[0] == found[1]


# HTTP -----------------------------------------------------------------------------------------


def test_http_is_told_all_that_the_operator_says() -> None:
    config = AgentConfig(
        addresses=AddressConfig(http=("10.0.0.1", "unix:///run/isthmus"), https=("10.0.0.2",)),
        ports=PortConfig(http=18500, https=18501),
        limits=LimitConfig(
            http_max_conns_per_client=7,
            https_handshake_timeout=1.5,
            kv_max_value_size=1024,
            txn_max_req_len=2048,
        ),
        tls=TlsConfig(verify_incoming_https=True),
        http=HttpConfig(
            response_headers={"X-From": "here"},
            block_endpoints=("/v1/kv",),
            allow_write_http_from=("10.0.0.0/8",),
            pretty=True,
            unix_socket_user="www-data",
            unix_socket_group="7",
            unix_socket_mode="0660",
        ),
    )
    assert settings.http_config(config) == http.HttpConfig(
        addresses=("10.0.0.1", "unix:///run/isthmus"),
        port=18500,
        https_addresses=("10.0.0.2",),
        https_port=18501,
        https_verify_incoming=True,
        https_handshake_timeout=1.5,
        max_conns_per_client=7,
        kv_value_size_max=1024,
        txn_size_max=2048,
        response_headers={"X-From": "here"},
        block_endpoints=("/v1/kv",),
        write_networks=("10.0.0.0/8",),
        pretty=True,
        socket_owner=SocketOwner(user="www-data", group="7", mode=0o660),
    )


def test_transaction_may_be_as_large_as_a_value() -> None:
    limits = LimitConfig(kv_max_value_size=4096, txn_max_req_len=2048)
    assert settings.http_config(AgentConfig(limits=limits)).txn_size_max == 4096


def test_http_defaults_are_the_same_on_both_sides() -> None:
    assert settings.http_config(AgentConfig()) == http.HttpConfig()


@pytest.mark.parametrize(
    ("tls_config", "demanded"),
    [
        (TlsConfig(verify_incoming=True), True),
        (TlsConfig(verify_incoming_https=True), True),
        (TlsConfig(verify_incoming_rpc=True), False),
    ],
)
def test_https_demands_certificates_where_the_operator_says(
    tls_config: TlsConfig, demanded: bool
) -> None:
    told = settings.http_config(AgentConfig(tls=tls_config))
    assert told.https_verify_incoming is demanded


# Gossip ---------------------------------------------------------------------------------------


def test_pools_without_settings_have_consuls_times() -> None:
    config = AgentConfig()
    assert settings.gossip_config(config, wan=False) == gossip.GossipConfig.lan()
    assert settings.gossip_config(config, wan=True) == gossip.GossipConfig.wan()


def test_each_pool_has_its_own_times() -> None:
    lan = GossipTimers(
        gossip_interval=0.3,
        gossip_nodes=5,
        probe_interval=2.0,
        probe_timeout=0.7,
        suspicion_mult=3,
        retransmit_mult=2,
    )
    config = AgentConfig(
        gossip=GossipConfig(lan=lan, reconnect_timeout_lan=1e5, reconnect_timeout_wan=2e5)
    )
    assert settings.gossip_config(config, wan=False) == dataclasses.replace(
        gossip.GossipConfig.lan(), **dataclasses.asdict(lan), reconnect_timeout=1e5
    )
    assert settings.gossip_config(config, wan=True) == dataclasses.replace(
        gossip.GossipConfig.wan(), reconnect_timeout=2e5
    )


@pytest.mark.parametrize("wan", [True, False])
def test_encryption_can_be_switched_on_in_steps(wan: bool) -> None:
    half = GossipConfig(encrypt_verify_incoming=False, encrypt_verify_outgoing=False)
    told = settings.gossip_config(AgentConfig(gossip=half), wan=wan)
    assert (told.verify_incoming, told.verify_outgoing) == (False, False)


def test_key_is_decoded() -> None:
    key = "AAECAwQFBgcICQoLDA0ODw=="
    config = AgentConfig(gossip=GossipConfig(encrypt=key))
    assert settings.gossip_keys(config) == (bytes(range(16)),)
    assert settings.gossip_keys(AgentConfig()) == ()


# What the loader lets through -----------------------------------------------------------------

_TIMERS = st.fixed_dictionaries(
    {},
    optional={
        "gossip_interval": st.floats(-1, 60),
        "gossip_nodes": st.integers(-1, 10),
        "probe_interval": st.floats(-1, 60),
        "probe_timeout": st.floats(-1, 60),
        "suspicion_mult": st.integers(-1, 10),
        "retransmit_mult": st.integers(-1, 10),
    },
)
_LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "http_max_conns_per_client": st.integers(-1, 3),
        "https_handshake_timeout": st.floats(-1, 9),
        "kv_max_value_size": st.integers(-1, 3),
    },
)


def _written(values: dict[str, Any]) -> dict[str, Any]:
    """Floats stand for durations."""
    return {
        name: f"{value:.3f}s" if isinstance(value, float) else value
        for name, value in values.items()
    }


@given(
    lan=_TIMERS,
    wan=_TIMERS,
    limits=_LIMITS,
    mode=st.none() | st.text(alphabet="0178x", max_size=5),
)
def test_accepted_configuration_never_fails_a_component(
    lan: dict[str, Any], wan: dict[str, Any], limits: dict[str, Any], mode: str | None
) -> None:
    values = {
        "data_dir": "/nowhere",
        "bind_addr": "127.0.0.1",
        "gossip_lan": _written(lan),
        "gossip_wan": _written(wan),
        "limits": _written(limits),
        "unix_sockets": {"mode": mode},
    }
    machine = Surroundings(hostname="alpha", interfaces=list)
    try:
        config = load([ConfigText(json.dumps(values), "json", "a.json")], surroundings=machine)
    except ConfigError:
        return
    settings.gossip_config(config, wan=False)
    settings.gossip_config(config, wan=True)
    settings.http_config(config)


# The mesh -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ca_config", "domain"),
    [
        ({"cluster_id": CLUSTER}, f"{CLUSTER}.consul"),
        ({}, None),
        ({"cluster_id": ""}, None),
        ({"cluster_id": 7}, None),
    ],
)
def test_trust_domain_is_that_of_the_configured_cluster(
    ca_config: dict[str, Any], domain: str | None
) -> None:
    config = AgentConfig(connect=ConnectConfig(ca_config=ca_config))
    assert settings.trust_domain(config) == domain
