"""Opening ports: what it means when one cannot be opened, and what to do."""

import contextlib
import errno
import os
from collections.abc import Iterator

from isthmus.config.model import AgentConfig
from isthmus.errors import ConfigError, Mistake
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
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        addresses = [
            host if "/" in host else host_port(host, getattr(config.ports, port)) for host in hosts
        ]
        if error.errno == errno.EADDRINUSE:
            remedy = "another agent or program on this host has it: give each one its own"
        elif error.errno == errno.EADDRNOTAVAIL:
            remedy = "that is no address of this host: use one that it has"
        else:
            remedy = "correct them"
        text = (
            f"datacenter {config.datacenter}, server {config.node_name}, hop configuration:"
            f" cannot listen for {what} on {', '.join(addresses)}: {reason.lower()}"
        )
        raise ConfigError([Mistake("", f"{key}, ports.{port}", text, remedy)]) from error
