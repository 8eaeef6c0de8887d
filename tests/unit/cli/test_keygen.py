"""``isthmus keygen``."""

import base64

from isthmus.gossip.keyring import Keyring
from support.cli import Cli


def test_key_is_one_that_gossip_takes(cli: Cli) -> None:
    result = cli("keygen")
    assert (result.code, result.err) == (0, "")
    key = base64.b64decode(result.out.strip(), validate=True)
    assert len(key) == 32
    Keyring((key,))


def test_no_two_keys_are_equal(cli: Cli) -> None:
    assert cli("keygen").out != cli("keygen").out


def test_argument_is_refused(cli: Cli) -> None:
    result = cli("keygen", "16")
    assert (result.code, result.out) == (1, "")
