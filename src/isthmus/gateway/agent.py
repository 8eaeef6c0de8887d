"""Requests to the local agent: HTTP/1.1, one connection each, as little code as it takes.

`http.client` would load the mail and TLS libraries, a quarter of the gateway's memory; TLS is
loaded here only for an agent that speaks HTTPS.
"""

import base64
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, cast
from urllib.parse import quote

from isthmus.errors import ConfigError, MalformedPacket, Mistake, Unavailable
from isthmus.names import HTTP_PORT

BODY_SIZE_MAX: Final = 64 * 1024 * 1024
"""Largest answer that is read."""
LINE_SIZE_MAX: Final = 16 * 1024
HEADERS_MAX: Final = 100
CONNECT_TIMEOUT: Final = 5.0
_UNIX: Final = "unix://"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAddress:
    """Where the agent is, and who we are to it.

    Attributes:
        host: Host name or address; empty for a unix socket.
        port: TCP port.
        path: Path of a unix socket.
        tls: HTTPS.
        token: ACL token, sent as ``X-Consul-Token``.
        basic_auth: ``user:password``.
        ca_file, ca_path: Trusted roots; the system's when both are empty.
        client_cert, client_key: Files of our certificate.
        server_name: Name that the agent's certificate must carry; empty: `host`.
        verify: Check the agent's certificate.
    """

    host: str = "127.0.0.1"
    port: int = HTTP_PORT
    path: str = ""
    tls: bool = False
    token: str = ""
    basic_auth: str = ""
    ca_file: str = ""
    ca_path: str = ""
    client_cert: str = ""
    client_key: str = ""
    server_name: str = ""
    verify: bool = True

    def __str__(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


def split_agent_address(text: str) -> tuple[str, int, str, bool]:
    """Split ``HOST[:PORT]``, ``http(s)://HOST[:PORT]`` or ``unix://PATH``.

    Returns:
        Host, port, path of the unix socket, and whether it is HTTPS.

    Raises:
        ConfigError: In none of these forms.
    """
    if text.startswith(_UNIX):
        return "", 0, text.removeprefix(_UNIX), False
    scheme, separator, rest = text.partition("://")
    place = (rest if separator else text).rstrip("/")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, str(HTTP_PORT)
    host = host.removeprefix("[").removesuffix("]")
    valid_scheme = not separator or scheme in {"http", "https"}
    if not valid_scheme or not port.isdigit() or not 0 < int(port) < 65536 or "/" in place:
        mistake = Mistake(
            "flag", "-http-addr", f"bad address {text!r}", "HOST:PORT, http(s)://… or unix://PATH"
        )
        raise ConfigError([mistake])
    return host or "127.0.0.1", int(port), "", separator != "" and scheme == "https"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the agent."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, shortened: what an error says."""
        return self.body[:500].decode(errors="replace").strip()


class Agent:
    """The local agent's HTTP API; safe in any thread."""

    def __init__(self, address: AgentAddress) -> None:
        self.address = address

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float,
    ) -> Reply:
        """Make one request and read the whole answer, whatever its status.

        Args:
            method: ``GET`` or ``PUT``.
            path: Path, quoted where it has to be.
            query: Parameters, unquoted.
            body: JSON, for ``PUT``.
            timeout: Seconds that the agent may be silent.

        Raises:
            Unavailable: The agent cannot be reached, or the connection was lost.
            MalformedPacket: What answers does not speak HTTP.
        """
        target = path
        if query:
            target += "?" + "&".join(f"{name}={quote(value)}" for name, value in query.items())
        try:
            with self._connect() as sock:
                sock.settimeout(timeout)
                sock.sendall(self._head(method, target, len(body)) + body)
                with sock.makefile("rb") as stream:
                    return read_reply(cast(BinaryIO, stream))
        except OSError as error:
            raise Unavailable(f"agent at {self.address}: {error}") from error

    def _connect(self) -> socket.socket:
        address = self.address
        if address.path:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect(address.path)
            return sock
        sock = socket.create_connection((address.host, address.port), CONNECT_TIMEOUT)
        return self._wrap(sock) if address.tls else sock

    def _wrap(self, sock: socket.socket) -> socket.socket:
        import ssl

        address = self.address
        context = ssl.create_default_context(
            cafile=address.ca_file or None, capath=address.ca_path or None
        )
        if not address.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if address.client_cert:
            context.load_cert_chain(address.client_cert, address.client_key or None)
        return context.wrap_socket(sock, server_hostname=address.server_name or address.host)

    def _head(self, method: str, target: str, size: int) -> bytes:
        address = self.address
        lines = [f"{method} {target} HTTP/1.1", f"Host: {address.host or 'localhost'}"]
        lines += ["Connection: close", "User-Agent: isthmus-gateway"]
        if address.token:
            lines.append(f"X-Consul-Token: {address.token}")
        if address.basic_auth:
            encoded = base64.b64encode(address.basic_auth.encode()).decode()
            lines.append(f"Authorization: Basic {encoded}")
        if method != "GET":
            lines += [f"Content-Length: {size}", "Content-Type: application/json"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_reply(stream: BinaryIO) -> Reply:
    """Read one HTTP/1.1 answer, the last one of its connection.

    Raises:
        MalformedPacket: Not HTTP, or larger than our limits.
        ConnectionError: The stream ended within the answer.
    """
    version, _, rest = _read_line(stream).partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not status.isdigit():
        raise MalformedPacket(f"not an HTTP answer: {version[:40]!r}")
    headers: dict[str, str] = {}
    while line := _read_line(stream):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
        if len(headers) > HEADERS_MAX:
            raise MalformedPacket("too many HTTP headers")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Reply(int(status), _read_chunks(stream))
    size = headers.get("content-length")
    if size is None:
        return Reply(int(status), stream.read(BODY_SIZE_MAX))
    return Reply(int(status), _read_exactly(stream, _size(size, 10)))


def _read_line(stream: BinaryIO) -> str:
    line = stream.readline(LINE_SIZE_MAX)
    if not line.endswith(b"\n"):
        if len(line) == LINE_SIZE_MAX:
            raise MalformedPacket("HTTP header line too long")
        raise ConnectionResetError("the agent closed the connection")
    return line.decode("latin-1").rstrip("\r\n")


def _read_chunks(stream: BinaryIO) -> bytes:
    body = bytearray()
    while size := _size(_read_line(stream).partition(";")[0], 16):
        if len(body) + size > BODY_SIZE_MAX:
            raise MalformedPacket("HTTP answer too large")
        body += _read_exactly(stream, size)
        _read_line(stream)
    return bytes(body)


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ConnectionResetError("the agent closed the connection")
    return data


def _size(text: str, base: int) -> int:
    try:
        size = int(text.strip(), base)
    except ValueError:
        raise MalformedPacket(f"bad HTTP size {text[:20]!r}") from None
    if not 0 <= size <= BODY_SIZE_MAX:
        raise MalformedPacket(f"HTTP answer of {size} bytes")
    return size


def agent_address(
    flags: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> AgentAddress:
    """The agent's address out of flags and Consul's environment variables.

    Args:
        flags: Values by flag name, those given only: ``http-addr``, ``token``, ``token-file``,
            ``ca-file``, ``ca-path``, ``client-cert``, ``client-key``, ``tls-server-name``.
        environ: The environment; a flag wins over its variable.

    Raises:
        ConfigError: A value is wrong, or the token file cannot be read.

    Source: protocol/cli-config-dns.md §1.1.
    """

    def value(flag: str, variable: str) -> str:
        return flags.get(flag) or environ.get(variable, "")

    host, port, path, tls = split_agent_address(
        value("http-addr", "CONSUL_HTTP_ADDR") or f"127.0.0.1:{HTTP_PORT}"
    )
    return AgentAddress(
        host=host,
        port=port,
        path=path,
        tls=tls or (not path and _is_true(environ.get("CONSUL_HTTP_SSL", ""))),
        token=_token(flags, environ),
        basic_auth=environ.get("CONSUL_HTTP_AUTH", ""),
        ca_file=value("ca-file", "CONSUL_CACERT"),
        ca_path=value("ca-path", "CONSUL_CAPATH"),
        client_cert=value("client-cert", "CONSUL_CLIENT_CERT"),
        client_key=value("client-key", "CONSUL_CLIENT_KEY"),
        server_name=value("tls-server-name", "CONSUL_TLS_SERVER_NAME"),
        verify=_is_true(environ.get("CONSUL_HTTP_SSL_VERIFY") or "true"),
    )


def _token(flags: Mapping[str, str], environ: Mapping[str, str]) -> str:
    if "token" in flags:
        return flags["token"]
    file = flags.get("token-file") or (
        "" if environ.get("CONSUL_HTTP_TOKEN") else environ.get("CONSUL_HTTP_TOKEN_FILE", "")
    )
    if not file:
        return environ.get("CONSUL_HTTP_TOKEN", "")
    try:
        with open(file, encoding="utf-8") as opened:
            return opened.read().strip()
    except OSError as error:
        mistake = Mistake("flag", "-token-file", f"cannot read {file}: {error.strerror}")
        raise ConfigError([mistake]) from error


def _is_true(text: str) -> bool:
    return text.lower() in {"1", "t", "true"}
