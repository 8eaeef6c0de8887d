"""Opening ports: what it means when one cannot be opened, and what to do."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from isthmus.config.model import AgentConfig
from isthmus.errors import ConfigError, Mistake
from isthmus.http.server import UNIX, CannotListen
from isthmus.names import host_port


@contextlib.contextmanager
def listening(config: AgentConfig, what: str, key: str, *hosts: str, port: str) -> Iterator[None]:
    """Say what a port that cannot be opened means, and what to do.

    Args:
        config: The agent's.
        what: What would come in there.
        key: Configuration key of the hosts.
        hosts: Where it listens.
        port: Configuration key of the port, in `ports`.

    Raises:
        ConfigError: In place of OSError.
    """
    try:
        yield
    except OSError as error:
        addresses = ", ".join(host_port(host, getattr(config.ports, port)) for host in hosts)
        raise _refused(config, error, what, addresses, f"{key}, ports.{port}") from error


@contextlib.contextmanager
def serving_http(config: AgentConfig) -> Iterator[None]:
    """The same for HTTP, HTTPS and unix sockets.

    Raises:
        ConfigError: In place of CannotListen.
    """
    try:
        yield
    except CannotListen as error:
        what, name = ("HTTPS", "https") if error.is_https else ("HTTP", "http")
        hosts = f"addresses.{name}" if f"addresses.{name}" in config.origins else "client_addr"
        is_socket = error.address.startswith(UNIX)
        key = f"{hosts}, unix_sockets" if is_socket else f"{hosts}, ports.{name}"
        raise _refused(config, error, what, error.address, key) from error


def _refused(
    config: AgentConfig, error: OSError, what: str, addresses: str, key: str
) -> ConfigError:
    text = (
        f"datacenter {config.datacenter}, server {config.node_name}, hop configuration:"
        f" cannot listen for {what} on {addresses}: {_reason(error)}"
    )
    return ConfigError([Mistake("", key, text, _REMEDIES.get(error.errno or 0, "correct them"))])


def _reason(error: OSError) -> str:
    if error.errno and error.errno > 0 and error.errno not in _TOLD_BETTER:
        return os.strerror(error.errno).lower()
    return error.strerror or str(error)


_TOLD_BETTER: Final = frozenset({errno.EEXIST, errno.EINVAL})
"""Errors whose text is our own."""
_REMEDIES: Final = {
    errno.EADDRINUSE: "another agent or program on this host has it: give each one its own",
    errno.EADDRNOTAVAIL: "that is no address of this host: use one that it has",
    errno.EACCES: "use a port above 1023, or a directory that the agent may write to",
    errno.EPERM: "only root may give a socket to somebody else: run the agent as that user",
    errno.EEXIST: "remove what is there, or use another path",
    errno.ENOENT: "create the directory",
}
