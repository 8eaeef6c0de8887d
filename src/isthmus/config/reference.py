"""The reference page of all configuration keys, made from the table they are read by.

``python -m isthmus.config.reference`` prints it; ``docs/configuration.md`` is its output.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final

from isthmus.config.keys import ALIASES, KEYS, Key
from isthmus.config.kinds import DURATION, SECRET
from isthmus.config.model import OFF, AgentConfig
from isthmus.config.reload import RELOADABLE
from isthmus.units import Duration, format_duration

_HEAD: Final = """\
# Configuration

<!-- Made by `python -m isthmus.config.reference` from the table in src/isthmus/config/keys.py. -->

isthmus reads Consul's configuration keys from files in HCL 1 (`.hcl`) or JSON (`.json`), from
`-hcl` texts and from flags. Files of a directory are read in the order of their names. Later
values win over earlier ones, flags over files; lists are appended, maps are added up. A block and
an object behind `=` are the same. All mistakes are reported together, before anything starts.

- `isthmus validate PATH…` checks without starting anything.
- Addresses may be templates: `{{ GetPrivateIP }}`, `{{ GetPublicIP }}`,
  `{{ GetInterfaceIP "eth0" }}`.
- Durations are written like `"250ms"`, `"30s"`, `"1h30m"`.
- SIGHUP reads the keys marked *reload* again; the others need a restart.

| mark in column "since" | meaning |
|---|---|
| a release | isthmus acts on the key from that release on |
| later | accepted with a warning; this release does not act on it yet |
| ignored | accepted with a warning; it has no meaning for isthmus |
"""


def reference_page() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *_tables(), *_aliases()])


def default_of(key: Key) -> str:
    """Default of a key as one would write it; empty if there is none."""
    if not key.field or key.kind is SECRET:
        return ""
    value: Any = AgentConfig()
    for name in key.field.split("."):
        value = getattr(value, name)
    if key.name in _DEFAULT_FROM_OTHERS or value is None or value in ("", (), {}):
        return ""
    if key.kind is DURATION:
        return f'"{format_duration(Duration.of(value))}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f'"{" ".join(value)}"'
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(OFF) if value == OFF else f'"{value}"' if isinstance(value, str) else str(value)


_DEFAULT_FROM_OTHERS: Final = frozenset(
    {
        "primary_datacenter", "advertise_addr", "advertise_addr_wan", "serf_lan", "serf_wan",
        "addresses.http", "addresses.https", "addresses.dns", "addresses.grpc",
        "leave_on_terminate", "skip_leave_on_interrupt",
    }
)  # fmt: skip
"""Their line says where their default comes from."""


def _tables() -> Iterator[str]:
    for title, restricted in (("Keys", False), ("Keys without effect", True)):
        yield f"## {title}\n"
        yield "| key | kind | default | flag | since | tier | what it does |"
        yield "|---|---|---|---|---|---|---|"
        for key in KEYS.values():
            if (key.tier > 2) == restricted:
                yield _row(key)
        yield ""


def _row(key: Key) -> str:
    since = key.since or ("ignored" if key.tier > 2 else "later")
    about = key.about + (" *reload*" if key.since and key.field in RELOADABLE else "")
    cells = (
        f"`{key.name}`",
        key.kind.name,
        f"`{shown}`" if (shown := default_of(key)) else "",
        f"`-{key.flag}`" if key.flag else "",
        since,
        str(key.tier),
        about.replace("|", "\\|"),
    )
    return "| " + " | ".join(cells) + " |"


def _aliases() -> Iterator[str]:
    yield "## Other spellings\n"
    yield "| written | read as |"
    yield "|---|---|"
    for written, name in ALIASES.items():
        yield f"| `{written}` | `{name}` |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(reference_page())
