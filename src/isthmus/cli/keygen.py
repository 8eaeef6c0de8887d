"""``isthmus keygen``: a key for gossip encryption."""

import base64
import secrets

from isthmus.cli.command import Command, say
from isthmus.cli.flags import Parsed

_KEY_SIZE = 32


def _run(_: Parsed) -> int:
    say(base64.b64encode(secrets.token_bytes(_KEY_SIZE)).decode())
    return 0


KEYGEN = Command(
    "keygen", "Make a key for `encrypt`, the same on all agents of a federation.", _run
)
