"""A machine and configurations to load."""

import ipaddress
import json
from collections.abc import Callable
from typing import Any

import pytest

from isthmus.config import AgentConfig, ConfigText, Surroundings, load
from isthmus.config.surroundings import InterfaceAddress
from isthmus.errors import ConfigError, Mistake

Load = Callable[..., AgentConfig]
Refuse = Callable[..., tuple[Mistake, ...]]


def interface(
    name: str, address: str, *, prefix_length: int = 24, default: bool = False
) -> InterfaceAddress:
    return InterfaceAddress(name, ipaddress.ip_address(address), prefix_length, default)


MACHINE = Surroundings(
    hostname="alpha",
    interfaces=lambda: [
        interface("lo", "127.0.0.1", prefix_length=8),
        interface("lo", "::1", prefix_length=128),
        interface("eth1", "198.51.100.7"),
        interface("eth0", "10.1.0.5", default=True),
        interface("eth0", "fd00::5", prefix_length=64, default=True),
        interface("eth0", "fe80::5", prefix_length=64, default=True),
        interface("wan0", "8.8.4.4"),
    ],
)


@pytest.fixture
def load_values() -> Load:
    """Load one configuration given as a dictionary, on a machine of its own."""

    def load_it(values: dict[str, Any] | None = None, **more: Any) -> AgentConfig:
        text = ConfigText(json.dumps({"data_dir": "/nowhere", **(values or {})}), "json", "a.json")
        return load([text], surroundings=MACHINE, **more)

    return load_it


@pytest.fixture
def refuse(load_values: Load) -> Refuse:
    """Load what must be refused; returns the mistakes."""

    def refuse_it(values: dict[str, Any], **more: Any) -> tuple[Mistake, ...]:
        with pytest.raises(ConfigError) as caught:
            load_values(values, **more)
        return caught.value.mistakes

    return refuse_it


@pytest.fixture
def machine() -> Surroundings:
    return MACHINE
