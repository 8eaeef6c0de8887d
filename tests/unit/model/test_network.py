"""Which addresses are in a list of networks."""

import pytest

from isthmus.model.network import Networks


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.1.2.3", True),
        ("11.0.0.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("fd00::1", True),
        ("[fd00::1%eth0]", True),
        ("fe80::1", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("web.example", False),
        ("", False),
    ],
)
def test_address(address: str, *, inside: bool) -> None:
    assert (address in Networks(["10.9.9.9/8", "192.0.2.7", "fd00::/8"])) is inside


def test_no_networks_are_false_and_hold_nothing() -> None:
    assert not Networks([])
    assert Networks(["10.0.0.0/8"])
    assert "10.0.0.1" not in Networks([])


def test_what_is_no_network() -> None:
    with pytest.raises(ValueError, match="intranet"):
        Networks(["intranet"])
