"""What is right and yet keeps an agent of this release from starting.

`isthmus validate` shows these as notes: the configuration itself is valid.
"""

from pathlib import Path

from isthmus.config.model import AgentConfig
from isthmus.errors import Mistake

_RELEASE = "not in this release"


def unsupported(config: AgentConfig) -> list[Mistake]:
    """Find what this release does not do and may not ignore.

    Returns:
        One mistake for each; empty: the agent can start.
    """
    found = list[tuple[str, str, str]]()
    for key, entries in (
        ("retry_join", config.join.retry_join),
        ("retry_join_wan", config.join.retry_join_wan),
        ("primary_gateways", config.connect.primary_gateways),
    ):
        for entry in entries:
            if entry.startswith("provider="):
                text = f"discovery by provider is {_RELEASE}: {entry.split()[0]}"
                found.append((key, text, "write addresses or host names"))
    return [Mistake(config.origins.get(key, ""), key, text, fix) for key, text, fix in found]


def unreadable(config: AgentConfig) -> list[Mistake]:
    """Find files that are named and cannot be read."""
    mistakes = list[Mistake]()
    for key, path in (
        ("ca_file", config.tls.ca_file),
        ("ca_path", config.tls.ca_path),
        ("cert_file", config.tls.cert_file),
        ("key_file", config.tls.key_file),
    ):
        if not path:
            continue
        try:
            _touch(Path(path))
        except OSError as error:
            text = f"{path} cannot be read: {error.strerror or error}"
            mistakes.append(Mistake(config.origins.get(key, ""), key, text))
    return mistakes


def _touch(path: Path) -> None:
    if path.is_dir():
        next(path.iterdir(), None)
    else:
        with path.open("rb"):
            pass
