"""What an operator reads when a port or a socket cannot be opened."""

import errno
import os

import pytest

from isthmus.agent.ports import listening, serving_http
from isthmus.config.model import AgentConfig, PortConfig
from isthmus.errors import ConfigError
from isthmus.http.server import CannotListen

CONFIG = AgentConfig(node_name="n1", ports=PortConfig(server=8300, https=8501))


def failed(number: int, text: str = "") -> OSError:
    return OSError(number, text or os.strerror(number))


def refused(error: CannotListen, config: AgentConfig = CONFIG) -> tuple[str, str, str]:
    with pytest.raises(ConfigError) as caught, serving_http(config):
        raise error
    (mistake,) = caught.value.mistakes
    return mistake.key, mistake.text, mistake.remedy


def test_server_port_that_is_taken() -> None:
    with (
        pytest.raises(ConfigError) as caught,
        listening(CONFIG, "server RPC", "bind_addr", "10.0.0.1", port="server"),
    ):
        raise failed(errno.EADDRINUSE)
    (mistake,) = caught.value.mistakes
    assert mistake.key == "bind_addr, ports.server"
    assert mistake.text == (
        "datacenter dc1, server n1, hop configuration:"
        " cannot listen for server RPC on 10.0.0.1:8300: address already in use"
    )
    assert mistake.remedy.startswith("another agent or program")


def test_https_port_names_its_own_keys() -> None:
    error = CannotListen(failed(errno.EADDRINUSE), address="127.0.0.1:8501", is_https=True)
    key, text, _ = refused(error)
    assert key == "client_addr, ports.https"
    assert "cannot listen for HTTPS on 127.0.0.1:8501: address already in use" in text


def test_addresses_that_were_configured_are_named() -> None:
    config = AgentConfig(node_name="n1", origins={"addresses.http": "a.json"})
    error = CannotListen(failed(errno.EADDRNOTAVAIL), address="192.0.2.1:8500", is_https=False)
    key, _, remedy = refused(error, config)
    assert key == "addresses.http, ports.http"
    assert remedy == "that is no address of this host: use one that it has"


@pytest.mark.parametrize(
    ("error", "words", "remedy"),
    [
        (failed(errno.ENOENT), "no such file or directory", "create the directory"),
        (failed(errno.EACCES), "permission denied", "a directory that the agent may write to"),
        (failed(errno.EPERM), "operation not permitted", "run the agent as that user"),
        (failed(errno.EEXIST, "/x is there and is no socket"), "no socket", "remove what is there"),
        (failed(errno.EINVAL, "there is no user 'x' on this host"), "no user 'x'", "correct them"),
    ],
)
def test_unix_socket_says_what_is_wrong_and_what_to_do(
    error: OSError, words: str, remedy: str
) -> None:
    told = refused(CannotListen(error, address="unix:///run/a.sock", is_https=False))
    assert told[0] == "client_addr, unix_sockets"
    assert "for HTTP on unix:///run/a.sock" in told[1]
    assert words in told[1]
    assert remedy in told[2]
