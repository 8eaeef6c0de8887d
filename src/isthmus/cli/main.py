"""Entry of the program: find the command, import it and nothing else, run it.

Source: protocol/cli-config-dns.md §1.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "agent": ("isthmus.cli.agent:run", "Run an agent"),
    "catalog datacenters": ("isthmus.cli.catalog:DATACENTERS", "List the known datacenters"),
    "catalog nodes": ("isthmus.cli.catalog:NODES", "List the nodes of a datacenter"),
    "catalog services": ("isthmus.cli.catalog:SERVICES", "List the services of a datacenter"),
    "config delete": ("isthmus.cli.config:DELETE", "Delete a config entry"),
    "config list": ("isthmus.cli.config:LIST", "List the config entries of a kind"),
    "config read": ("isthmus.cli.config:READ", "Show a config entry"),
    "config write": ("isthmus.cli.config:WRITE", "Write a config entry of a file"),
    "connect gateway": ("isthmus.cli.connect_gateway:run", "Run the built-in mesh gateway"),
    "debug": ("isthmus.cli.debug:DEBUG", "Record what an agent says of itself for a while"),
    "demo": ("isthmus.cli.demo:run", "Show three federated datacenters on this machine"),
    "event": ("isthmus.cli.event:EVENT", "Tell agents of a datacenter an event"),
    "federation doctor": (
        "isthmus.cli.federation_doctor:DOCTOR",
        "Find the broken hop between datacenters",
    ),
    "federation gateways": ("isthmus.cli.federation:GATEWAYS", "List all mesh gateways"),
    "federation get": ("isthmus.cli.federation:GET", "Show one datacenter's federation state"),
    "federation list": ("isthmus.cli.federation:LIST", "List the federation states"),
    "federation status": (
        "isthmus.cli.federation_status:STATUS",
        "Show how the federation fares",
    ),
    "force-leave": ("isthmus.cli.pool:FORCE_LEAVE", "Make a failed member leave"),
    "info": ("isthmus.cli.pool:INFO", "Show an agent's figures"),
    "join": ("isthmus.cli.pool:JOIN", "Make an agent join others"),
    "keygen": ("isthmus.cli.keygen:KEYGEN", "Make a gossip key"),
    "keyring": ("isthmus.cli.keyring:KEYRING", "List or change the gossip keys"),
    "kv delete": ("isthmus.cli.kv:DELETE", "Delete from the key-value store"),
    "kv export": ("isthmus.cli.kv_transfer:EXPORT", "Print keys and values as JSON"),
    "kv get": ("isthmus.cli.kv:GET", "Read from the key-value store"),
    "kv import": ("isthmus.cli.kv_transfer:IMPORT", "Write keys and values from JSON"),
    "kv put": ("isthmus.cli.kv:PUT", "Write to the key-value store"),
    "leave": ("isthmus.cli.pool:LEAVE", "Make an agent leave and stop"),
    "lock": ("isthmus.cli.lock:LOCK", "Run a command while a lock is held"),
    "maint": ("isthmus.cli.maint:MAINT", "Take a node or a service out of service"),
    "members": ("isthmus.cli.pool:MEMBERS", "List the members of a gossip pool"),
    "monitor": ("isthmus.cli.monitor:MONITOR", "Show an agent's log as it is written"),
    "operator autopilot get-config": (
        "isthmus.cli.operator:GET_CONFIG",
        "Show what holds for servers that come and go",
    ),
    "operator autopilot set-config": (
        "isthmus.cli.operator:SET_CONFIG",
        "Change what holds for servers that come and go",
    ),
    "operator autopilot state": (
        "isthmus.cli.operator:STATE",
        "Show how the datacenter's servers are",
    ),
    "operator raft list-peers": (
        "isthmus.cli.operator:LIST_PEERS",
        "List the servers that keep the data",
    ),
    "operator raft remove-peer": (
        "isthmus.cli.operator:REMOVE_PEER",
        "Remove a server that is gone for good",
    ),
    "operator raft transfer-leader": (
        "isthmus.cli.operator:TRANSFER_LEADER",
        "Have another server lead",
    ),
    "operator storage migrate": (
        "isthmus.cli.operator:MIGRATE",
        "Move the data of the one server to another engine",
    ),
    "operator storage recover": (
        "isthmus.cli.operator:RECOVER",
        "Let a server go on alone when most are lost for good",
    ),
    "reload": ("isthmus.cli.pool:RELOAD", "Make an agent read its configuration again"),
    "rtt": ("isthmus.cli.rtt:RTT", "Estimate the round trip between two nodes"),
    "services deregister": (
        "isthmus.cli.services:DEREGISTER",
        "Remove services from an agent",
    ),
    "services register": ("isthmus.cli.services:REGISTER", "Register services with an agent"),
    "sim": ("isthmus.cli.sim:SIM", "Rehearse a federation and its faults in virtual time"),
    "snapshot agent": ("isthmus.cli.snapshot:AGENT", "Save snapshots by schedule"),
    "snapshot import": ("isthmus.cli.snapshot:IMPORT", "Take over a snapshot of Consul"),
    "snapshot inspect": ("isthmus.cli.snapshot:INSPECT", "Show what a snapshot holds"),
    "snapshot restore": ("isthmus.cli.snapshot:RESTORE", "Replace all data by a snapshot"),
    "snapshot save": ("isthmus.cli.snapshot:SAVE", "Save all data of a datacenter"),
    "tls ca create": ("isthmus.cli.tls:CA_CREATE", "Create a certificate authority"),
    "tls cert create": ("isthmus.cli.tls:CERT_CREATE", "Create a certificate"),
    "validate": ("isthmus.cli.validate:VALIDATE", "Check configuration files"),
    "version": ("isthmus.cli.version:VERSION", "Print the version"),
    "watch": ("isthmus.cli.watch:WATCH", "Follow changes, and run a command on each"),
}
"""Commands: where the code is, and what they do. Called with the arguments behind the name."""

WORDS_MAX: Final = max(len(name.split()) for name in COMMANDS)
UNKNOWN_COMMAND: Final = 127
"""Exit code when there is no such command."""
_HELP: Final = frozenset({"-h", "-help", "--help", "--h"})
_VERSION: Final = frozenset({"-v", "-version", "--version"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Arguments without the program's name; None: the process's.

    Returns:
        Exit code.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] and args[0] in _VERSION:
        args = ["version"]
    try:
        return _run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from flushing into the void.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(args: list[str]) -> int:
    for length in range(WORDS_MAX, 0, -1):
        name = " ".join(args[:length])
        if name in COMMANDS:
            code = _resolve(COMMANDS[name][0])(args[length:])
            sys.stdout.flush()
            return code
    group = args[0] if args and not args[0].startswith("-") else ""
    members = [name for name in COMMANDS if name.startswith(f"{group} ")] if group else []
    if members:
        asked = len(args) > 1 and args[-1] in _HELP
        words = args[: next((n for n, word in enumerate(args) if word.startswith("-")), None)]
        while len(words) > 1:
            deeper = [name for name in members if name.startswith(f"{group} {words[1]} ")]
            if not deeper:
                sys.stderr.write(
                    f"isthmus: there is no command {' '.join((group, words[1]))!r}\n\n"
                )
                break
            members, group = deeper, f"{group} {words.pop(1)}"
        _print_commands(f"isthmus {group} <subcommand> [flags]", members, asked=asked)
        return 0 if asked else 1
    asked = bool(args) and args[0] in _HELP
    if group:
        sys.stderr.write(f"isthmus: there is no command {group!r}\n\n")
    _print_commands("isthmus <command> [flags] [arguments]", list(COMMANDS), asked=asked)
    return 0 if asked else UNKNOWN_COMMAND


def _resolve(place: str) -> Callable[[list[str]], int]:
    module, _, name = place.partition(":")
    command: Callable[[list[str]], int] = getattr(importlib.import_module(module), name)
    return command


def _print_commands(usage: str, names: list[str], *, asked: bool) -> None:
    width = max(map(len, names))
    lines = [f"    {name:{width}}  {COMMANDS[name][1]}" for name in names]
    out = sys.stdout if asked else sys.stderr
    out.write(f"Usage: {usage}\n\nCommands:\n" + "\n".join(lines) + "\n\n")
    out.write("isthmus <command> -help says more about one.\n")


if __name__ == "__main__":
    sys.exit(main())
