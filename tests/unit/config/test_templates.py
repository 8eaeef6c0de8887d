"""Address templates on a machine of our own."""

import re

import pytest

from isthmus.config.surroundings import Surroundings
from isthmus.config.templates import advertised_ipv4, expand


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("{{ GetPrivateIP }}", "10.1.0.5"),
        ("{{GetPrivateIP}}", "10.1.0.5"),
        ("{{ GetPrivateIPs }}", "10.1.0.5 fd00::5"),
        ("{{ GetPublicIP }}", "8.8.4.4"),
        ('{{ GetInterfaceIP "eth0" }}', "10.1.0.5"),
        ("{{ GetInterfaceIP `eth1` }}", "198.51.100.7"),
        ("{{ GetPrivateIP }}:8443", "10.1.0.5:8443"),
        ('127.0.0.1 {{ GetInterfaceIP "eth0" }}', "127.0.0.1 10.1.0.5"),
    ],
)
def test_template_becomes_an_address(text: str, expanded: str, machine: Surroundings) -> None:
    assert expand(text, machine) == expanded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{{ GetAllInterfaces | include "name" "eth0" }}', "is not supported; write an address"),
        ('{{ GetInterfaceIP "eth9" }}', "no interface 'eth9' has an address; there are eth0"),
        ("{{ GetPrivateIP", "no closing }}"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, words: str, machine: Surroundings) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        expand(text, machine)


def test_no_address_of_the_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="finds no address"):
        expand("{{ GetPublicIP }}", Surroundings("lonely", list))


def test_unreadable_interfaces_are_an_error() -> None:
    def broken() -> list[object]:
        raise OSError("no netlink")

    with pytest.raises(ValueError, match="cannot be read: no netlink"):
        expand("{{ GetPrivateIP }}", Surroundings("x", broken))  # type: ignore[arg-type]


def test_private_address_is_advertised(machine: Surroundings) -> None:
    assert advertised_ipv4(machine.interfaces()) == ["10.1.0.5"]


def test_without_private_addresses_the_others_are_advertised(machine: Surroundings) -> None:
    others = [one for one in machine.interfaces() if one.interface == "eth1"]
    assert advertised_ipv4(others) == ["198.51.100.7"]


def test_this_machine_has_a_loopback_address() -> None:
    addresses = Surroundings.of_this_machine().interfaces()
    assert "127.0.0.1" in {str(one.address) for one in addresses}
