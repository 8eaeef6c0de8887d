"""HTTP client of the commands: talks to an isthmus agent, or to Consul's, just the same.

Source: protocol/cli-config-dns.md §1.1; protocol/http-api.md §1.
"""

import base64
import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from isthmus.cli.command import CommandFailed
from isthmus.cli.flags import Flag, Parsed, UsageError, parse_bool, switch
from isthmus.cli.streaming import Stream
from isthmus.errors import IsthmusError

DEFAULT_ADDRESS: Final = "http://127.0.0.1:8500"
TIMEOUT: Final = 75.0
"""Seconds an answer may take; a server may hold a call for its leader."""
UPLOAD_TIMEOUT: Final = 3600.0
"""Seconds that the answer to a long body may take, such as the restore of a large snapshot."""
CONNECT_TIMEOUT: Final = 10.0
BODY_SIZE_MAX: Final = 256 * 1024 * 1024
"""Longest answer that is read."""

CLIENT_FLAGS: Final = (
    Flag(
        "http-addr",
        f"The agent: HOST:PORT, http(s)://… or unix://PATH ({DEFAULT_ADDRESS}).",
        env="CONSUL_HTTP_ADDR",
        placeholder="ADDRESS",
    ),
    Flag("token", "Token of the request.", env="CONSUL_HTTP_TOKEN", placeholder="TOKEN"),
    Flag("token-file", "File with it.", env="CONSUL_HTTP_TOKEN_FILE", placeholder="FILE"),
    Flag("ca-file", "CA of an https agent.", env="CONSUL_CACERT", placeholder="FILE"),
    Flag("ca-path", "Directory of CAs.", env="CONSUL_CAPATH", placeholder="DIR"),
    Flag("client-cert", "Our certificate.", env="CONSUL_CLIENT_CERT", placeholder="FILE"),
    Flag("client-key", "Its key.", env="CONSUL_CLIENT_KEY", placeholder="FILE"),
    Flag(
        "tls-server-name",
        "Name that the agent's certificate carries.",
        env="CONSUL_TLS_SERVER_NAME",
        placeholder="NAME",
    ),
)
"""Flags of every command that asks an agent."""

QUERY_FLAGS: Final = (
    Flag("datacenter", "Datacenter to ask; the agent's own by default.", placeholder="DC"),
    switch("stale", "Any server may answer."),
    Flag("namespace", "Refused by all but Consul's enterprise edition.", env="CONSUL_NAMESPACE"),
)
"""Flags of commands whose answers come from servers."""

_PIECE_SIZE: Final = 256 * 1024
_TEXT_SIZE_MAX: Final = 64 * 1024
_UNIX: Final = "unix://"
_MAY_BE_MISSING: Final = ("/v1/kv/", "/v1/internal/", "/v1/isthmus/")
"""Paths of which a 404 is an answer; of others it says that an agent does not know them."""

J = TypeVar("J", list[Any], dict[str, Any])


class RequestFailed(IsthmusError):
    """The agent was not reached, or did not answer well. Its text ends a sentence.

    Attributes:
        status: Of an answer that was not what it should be; 0 without an answer.
    """

    def __init__(self, text: str, *, status: int = 0) -> None:
        self.status = status
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the agent is and how to speak to it.

    Attributes:
        scheme: ``http``, ``https`` or ``unix``.
        host: Host name or address; path of the socket for ``unix``.
        port: TCP port; 0 for ``unix``.
        prefix: Path before ``/v1``.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""

    def __str__(self) -> str:
        """As the operator would write it."""
        if self.scheme == "unix":
            return f"{_UNIX}{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def parse_address(text: str, *, tls: bool = False) -> Endpoint:
    """Read an agent's address.

    Args:
        text: ``HOST:PORT``, ``http://…``, ``https://…`` or ``unix://PATH``.
        tls: What to take ``HOST:PORT`` for.

    Raises:
        UsageError: It is none of these.
    """
    if text.startswith(_UNIX):
        return Endpoint("unix", text.removeprefix(_UNIX), 0)
    if "://" not in text:
        text = f"{'https' if tls else 'http'}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"bad agent address {text!r}: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"bad agent address {text!r}, expected HOST:PORT, http(s)://… or unix://…")
    default = 443 if parts.scheme == "https" else 80
    scheme = "https" if tls else parts.scheme
    return Endpoint(scheme, parts.hostname, port or default, parts.path.rstrip("/"))


class _Connection(http.client.HTTPConnection):
    """A connection to an endpoint of any scheme."""

    def __init__(
        self, endpoint: Endpoint, tls: ssl.SSLContext | None, server_name: str, timeout: float
    ) -> None:
        host = "localhost" if endpoint.scheme == "unix" else endpoint.host
        super().__init__(host, endpoint.port or None, timeout=timeout)
        self._endpoint, self._tls, self._server_name = endpoint, tls, server_name

    def connect(self) -> None:
        """Connect, and do the TLS handshake if it is https."""
        if self._endpoint.scheme == "unix":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(CONNECT_TIMEOUT)
            self.sock.connect(self._endpoint.host)
        else:
            address = (self._endpoint.host, self._endpoint.port)
            self.sock = socket.create_connection(address, CONNECT_TIMEOUT)
        if self._tls is not None:
            name = self._server_name or self._endpoint.host
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=name)
        self.sock.settimeout(self.timeout)


class AgentClient:
    """Asks one agent.

    Args:
        endpoint: Where it is.
        token: Token of every request; empty for none.
        basic_auth: ``user:password``; empty for none.
        tls: Context for https.
        server_name: Name in the agent's certificate; empty: its host.
        query: Parameters of every request.
        body_size_max: Longest answer that is read.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        token: str = "",
        basic_auth: str = "",
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
        query: Mapping[str, str] | None = None,
        body_size_max: int = BODY_SIZE_MAX,
    ) -> None:
        self._body_size_max = body_size_max
        self.endpoint = endpoint
        self._tls, self._server_name = tls, server_name
        self._query = dict(query or {})
        self._headers: dict[str, str] = {}
        if token:
            self._headers["X-Consul-Token"] = token
        if basic_auth:
            encoded = base64.b64encode(basic_auth.encode()).decode()
            self._headers["Authorization"] = f"Basic {encoded}"

    @classmethod
    def of(cls, args: Parsed, environ: Mapping[str, str] | None = None) -> "AgentClient":
        """Make the client that flags and environment ask for.

        Raises:
            UsageError: Address, file or certificate cannot be used.
        """
        environ = os.environ if environ is None else environ
        tls = _truth(environ, "CONSUL_HTTP_SSL", default=False)
        endpoint = parse_address(args["http-addr"] or DEFAULT_ADDRESS, tls=tls)
        token = args["token"]
        if args["token-file"] and "token" not in args.given:
            token = _read(args["token-file"]).strip()
        query = dict[str, str]()
        for flag, parameter in (("datacenter", "dc"), ("namespace", "ns")):
            if value := args.values.get(flag):
                query[parameter] = value
        if args.values.get("stale"):
            query["stale"] = ""
        return cls(
            endpoint,
            token=token,
            basic_auth=environ.get("CONSUL_HTTP_AUTH", ""),
            tls=_tls_context(args, environ) if endpoint.scheme == "https" else None,
            server_name=args["tls-server-name"],
            query=query,
        )

    def get_list(self, path: str, query: Mapping[str, Any] | None = None) -> list[Any]:
        """GET a JSON list; empty if there is no such thing where there may be none.

        Raises:
            RequestFailed: No answer, another status than 200, or no JSON list.
        """
        return self._get_json(path, query, list)

    def get_object(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """GET a JSON object; empty if there is no such thing where there may be none.

        Raises:
            RequestFailed: No answer, another status than 200, or no JSON object.
        """
        return self._get_json(path, query, dict)

    def _get_json(self, path: str, query: Mapping[str, Any] | None, kind: type[J]) -> J:
        status, body = self.request("GET", path, query)
        return self._parsed(path, status, body, kind)

    def _parsed(self, path: str, status: int, body: bytes, kind: type[J]) -> J:
        if status == 404:
            if path.startswith(_MAY_BE_MISSING):
                return kind()
            raise _unexpected(status, body)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestFailed(f"{self.endpoint} did not answer with JSON: {error}") from error
        if answer is None:  # Go's empty list or map.
            return kind()
        if not isinstance(answer, kind):
            found = type(answer).__name__
            raise RequestFailed(f"{self.endpoint} is no agent: it answered {path} with a {found}")
        return answer

    def put(
        self, path: str, query: Mapping[str, Any] | None = None, body: bytes | None = None
    ) -> bytes:
        """PUT; returns the answer's body.

        Raises:
            RequestFailed: No answer, or another status than 200.
        """
        return self.change("PUT", path, query, body)

    def delete(self, path: str, query: Mapping[str, Any] | None = None) -> bytes:
        """DELETE; returns the answer's body.

        Raises:
            RequestFailed: No answer, or another status than 200.
        """
        return self.change("DELETE", path, query, None)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
    ) -> tuple[int, bytes]:
        """Ask; returns status (200 or 404) and body.

        Raises:
            RequestFailed: The agent was not reached, or answered with another status.
        """
        status, _, data = self._fetch(method, self._target(path, query), body)
        if status not in {200, 404}:
            raise _unexpected(status, data)
        return status, data

    def read_indexed(
        self, path: str, query: Mapping[str, Any] | None = None
    ) -> tuple[list[Any], int]:
        """GET a JSON list, empty if there is no such thing, and the index to wait past.

        Raises:
            RequestFailed: No answer, another status than 200 and 404, or no JSON list.
        """
        status, headers, data = self._fetch("GET", self._target(path, query), None)
        if status not in {200, 404}:
            raise _unexpected(status, data)
        index = headers.get("X-Consul-Index", "")
        return self._parsed(path, status, data, list), int(index) if index.isdigit() else 0

    def ask(self, target: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        """GET a path with its query; returns status, headers and body, whatever the status.

        Raises:
            RequestFailed: The agent was not reached, or its answer is too long.
        """
        return self._fetch("GET", self.endpoint.prefix + target, None)

    def _fetch(
        self, method: str, target: str, body: bytes | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self._connect()
        try:
            connection.request(method, target, body=body, headers=self._headers)
            answer = connection.getresponse()
            data = answer.read(self._body_size_max + 1)
        except (OSError, http.client.HTTPException) as error:
            raise RequestFailed(self._unreachable(error)) from error
        finally:
            connection.close()
        if len(data) > self._body_size_max:
            raise RequestFailed(f"the answer is longer than {self._body_size_max} bytes")
        return answer.status, answer.headers, data

    def get_json(self, path: str) -> Any:
        """GET JSON of any kind.

        Raises:
            RequestFailed: No answer, another status than 200, or no JSON.
        """
        status, body = self.request("GET", path)
        if status != 200:
            raise _unexpected(status, body)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestFailed(f"{self.endpoint} did not answer with JSON: {error}") from error

    def stream(self, path: str, query: Mapping[str, Any] | None = None) -> Stream:
        """GET an answer without an end.

        Raises:
            RequestFailed: No answer, or another status than 200.
        """
        connection = self._connect()
        try:
            connection.connect()
            carrier = connection.sock  # The answer may take it away from the connection.
            connection.request("GET", self._target(path, query), headers=self._headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise _unexpected(answer.status, answer.read(_TEXT_SIZE_MAX))
            carrier.settimeout(None)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise RequestFailed(self._unreachable(error)) from error
        except RequestFailed:
            connection.close()
            raise
        return Stream(answer, carrier)

    def download(
        self,
        path: str,
        out: BinaryIO,
        query: Mapping[str, Any] | None = None,
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        """GET something that is too long for memory.

        Args:
            path: Path of the request.
            out: Gets the body.
            query: Parameters.
            timeout: Seconds until the answer must begin, and that it may pause.

        Raises:
            RequestFailed: No whole answer, or another status than 200.
            OSError: It cannot be written.
        """
        connection = self._connect(timeout)
        try:
            try:
                connection.request("GET", self._target(path, query), headers=self._headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    raise _unexpected(answer.status, answer.read(_TEXT_SIZE_MAX))
            except (OSError, http.client.HTTPException) as error:
                raise RequestFailed(self._unreachable(error)) from error
            while piece := self._piece(answer):
                out.write(piece)
        finally:
            connection.close()

    def _piece(self, answer: http.client.HTTPResponse) -> bytes:
        """The next part of a body; nothing at its end.

        Raises:
            RequestFailed: It ends early.
        """
        try:
            piece = answer.read(_PIECE_SIZE)
        except (OSError, http.client.HTTPException) as error:
            raise RequestFailed(f"{self.endpoint} broke off: {error}") from error
        if not piece and answer.length:
            raise RequestFailed(f"{self.endpoint} broke off, {answer.length} bytes are missing")
        return piece

    def upload(
        self, path: str, source: BinaryIO, size: int, query: Mapping[str, Any] | None = None
    ) -> bytes:
        """PUT something that is too long for memory; returns the answer's body.

        Args:
            path: Path of the request.
            source: Where the body is read from.
            size: Bytes of it.
            query: Parameters.

        Raises:
            RequestFailed: No answer, or another status than 200.
        """
        connection = self._connect(UPLOAD_TIMEOUT)
        headers = {**self._headers, "Content-Length": str(size)}
        try:
            connection.request("PUT", self._target(path, query), body=source, headers=headers)
            answer = connection.getresponse()
            data = answer.read(self._body_size_max)
        except (OSError, http.client.HTTPException) as error:
            raise RequestFailed(self._unreachable(error)) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise _unexpected(answer.status, data)
        return data

    def _target(self, path: str, query: Mapping[str, Any] | None) -> str:
        parameters = {**self._query, **(query or {})}
        target = self.endpoint.prefix + path
        return f"{target}?{urlencode(parameters, doseq=True)}" if parameters else target

    def _connect(self, timeout: float = TIMEOUT) -> "_Connection":
        return _Connection(self.endpoint, self._tls, self._server_name, timeout)

    def change(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
    ) -> bytes:
        """Ask with a method that changes something; returns the answer's body.

        Raises:
            RequestFailed: No answer, or another status than 200.
        """
        status, data = self.request(method, path, query, body)
        if status != 200:
            raise _unexpected(status, data)
        return data

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLError):
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            if "CERTIFICATE_REQUIRED" in reason:
                return (
                    f"{self.endpoint} demands a certificate of ours\n"
                    "Give one with -client-cert and -client-key."
                )
            if "WRONG_VERSION_NUMBER" in reason:
                return (
                    f"{self.endpoint} does not speak TLS\n"
                    "If that is its port without TLS, write http:// in place of https://."
                )
            return (
                f"{self.endpoint} does not speak TLS with us: {reason}\n"
                "Give its CA with -ca-file, and with -tls-server-name the name in its certificate."
            )
        if isinstance(error, http.client.HTTPException | ConnectionResetError):
            text = f"{self.endpoint} does not speak HTTP: {error or type(error).__name__}"
            if str(self.endpoint).startswith("http://"):
                text += "\nIf that is its port for HTTPS, write https:// in place of http://."
            return text
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return (
            f"no agent answers at {self.endpoint}: {reason.lower()}\n"
            "Start one with: isthmus agent -dev\n"
            "or say where it is with -http-addr or CONSUL_HTTP_ADDR."
        )


def _unexpected(status: int, body: bytes) -> RequestFailed:
    text = body.decode(errors="replace").strip()
    return RequestFailed(f"Unexpected response code: {status} ({text})", status=status)


@contextmanager
def failing_as(text: str) -> Iterator[None]:
    """Turn a failed request into a failed command whose message starts with `text`.

    Raises:
        CommandFailed: In place of RequestFailed.
    """
    try:
        yield
    except RequestFailed as error:
        raise CommandFailed(f"{text}: {error}") from error


def path_part(text: str, *, safe: str = "") -> str:
    """Escape what stands between slashes in a path."""
    return quote(text, safe=safe)


def key_path(key: str) -> str:
    """Path of a key of the key-value store, or of a prefix."""
    return f"/v1/kv/{path_part(key, safe='/')}"


def _truth(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environ.get(name)
    if not text:
        return default
    try:
        return parse_bool(text)
    except ValueError as error:
        raise UsageError(f'invalid value "{text}" for {name}: {error}') from None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _tls_context(args: Parsed, environ: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=args["ca-file"] or None, capath=args["ca-path"] or None
        )
        if args["client-cert"]:
            context.load_cert_chain(args["client-cert"], args["client-key"] or None)
    except OSError as error:
        files = " or ".join(
            args[name] for name in ("ca-file", "ca-path", "client-cert", "client-key") if args[name]
        )
        raise UsageError(f"cannot use {files}: {error.strerror or error}") from error
    if not _truth(environ, "CONSUL_HTTP_SSL_VERIFY", default=True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
