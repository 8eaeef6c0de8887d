"""A request as handlers see it, and its query string.

Source: protocol/http-api.md §1, §2.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from isthmus.http.streams import BodyStream

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TOKEN_HEADER: Final = b"x-consul-token"
_AUTHORIZATION: Final = b"authorization"
_BEARER: Final = "bearer "


def unescape(text: str) -> str:
    """Undo percent escapes; bytes that are not UTF-8 become surrogates.

    Raises:
        ValueError: A percent sign is not followed by two hexadecimal digits.
    """
    if "%" not in text:
        return text
    if bad := _BAD_ESCAPE.search(text):
        raise ValueError(f'invalid URL escape "{text[bad.start() : bad.start() + 3]}"')
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


class Query:
    """Parameters of a query string, in order; a name may repeat."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, list[str]]) -> None:
        self._values = values

    @classmethod
    def parse(cls, text: str) -> "Query":
        """Parse ``a=1&b&a=2``.

        Raises:
            ValueError: A percent escape is malformed.
        """
        values: dict[str, list[str]] = {}
        for pair in text.split("&"):
            if pair:
                name, _, value = pair.partition("=")
                name = unescape(name.replace("+", " "))
                values.setdefault(name, []).append(unescape(value.replace("+", " ")))
        return cls(values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def first(self, name: str) -> str:
        """The first value of a parameter; empty when there is none."""
        values = self._values.get(name)
        return values[0] if values else ""

    def all(self, name: str) -> list[str]:
        """Every value of a parameter."""
        return self._values.get(name, [])

    def __bool__(self) -> bool:
        return bool(self._values)


NO_QUERY: Final = Query({})


class Request:
    """One HTTP request, body included.

    Attributes:
        method: As sent: ``GET``.
        raw_path: Path of the target with its escapes.
        raw_query: What follows the question mark; empty for none.
        headers: By lower-case name; of a name that repeats, the last.
        body: Complete, unless `oversize`.
        peer: Address of the client; empty on a unix socket.
        oversize: Size of a body that was over its limit and has not been kept; 0 for none.
        query: Parameters; set by the door.
        stream: The body while it arrives, where an endpoint takes it so; `body` is empty then.
        argument: Part of the unescaped path behind the route's prefix; set by the door.
        cache_headers: What the answer says of the cache that it came from; set by the context.
        whole: The bytes that it came in, where they came at once and nothing else with them.
    """

    __slots__ = (
        "argument",
        "body",
        "cache_headers",
        "headers",
        "method",
        "oversize",
        "peer",
        "query",
        "raw_path",
        "raw_query",
        "stream",
        "whole",
    )

    def __init__(
        self,
        method: str,
        target: str,
        headers: Mapping[bytes, bytes] | None = None,
        body: bytes = b"",
        *,
        peer: str = "",
        oversize: int = 0,
    ) -> None:
        if not target.startswith("/") and "://" in target:
            _, _, rest = target.partition("://")
            slash = rest.find("/")
            target = rest[slash:] if slash >= 0 else "/"
        self.method = method
        self.raw_path, _, self.raw_query = target.partition("?")
        self.headers: Mapping[bytes, bytes] = headers or {}
        self.body = body
        self.peer = peer
        self.oversize = oversize
        self.stream: BodyStream | None = None
        self.query = NO_QUERY
        self.argument = ""
        self.cache_headers: tuple[tuple[str, str], ...] = ()
        self.whole = b""

    @property
    def token(self) -> str:
        """The ACL secret: of the query, else the token header, else the bearer's; or empty."""
        if self.query and (token := self.query.first("token")):
            return token
        headers = self.headers
        if token := headers.get(_TOKEN_HEADER, b"").decode("latin-1"):
            return token
        authorization = headers.get(_AUTHORIZATION, b"").decode("latin-1")
        if authorization[: len(_BEARER)].lower() == _BEARER:
            return authorization[len(_BEARER) :].strip()
        return ""

    @property
    def accepts_gzip(self) -> bool:
        """Whether the client takes a compressed body."""
        return b"gzip" in self.headers.get(b"accept-encoding", b"")
