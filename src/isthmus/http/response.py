"""A response as handlers make it.

Source: protocol/http-api.md §1, "Response headers", §3.
"""

from collections.abc import AsyncGenerator
from typing import Final

from isthmus.model.query import QueryMeta
from isthmus.model.timing import Timing
from isthmus.units import MILLISECOND

JSON: Final = ("Content-Type", "application/json")
PLAIN: Final = ("Content-Type", "text/plain; charset=utf-8")
GZIP: Final = ("Content-Encoding", "gzip")
GZIP_SIZE_MIN: Final = 1400
"""Shorter bodies are sent as they are; Consul's number."""

_BACKENDS: Final = ("blocking-query", "streaming")

Header = tuple[str, str]


class Response:
    """Status, headers and body; ``Content-Length`` is the connection's business.

    Attributes:
        status: HTTP status.
        headers: Names spelled as Consul spells them, in order of sending.
        body: Complete.
        close: Whether the connection ends after it.
        packed: Whether the body is compressed already.
        stream: Yields the body instead, where it is too long for memory.
        stream_size: Bytes that it yields; None: nobody knows.
        repeats: The RPC method that it shows the reply of, if it may be given again.
        timing: Of requests of this kind; set by the door.
        version: Of the tables before it was made; None when it may not be given again.
    """

    __slots__ = (
        "body",
        "close",
        "headers",
        "packed",
        "repeats",
        "status",
        "stream",
        "stream_size",
        "timing",
        "version",
    )

    def __init__(
        self,
        status: int = 200,
        headers: list[Header] | None = None,
        body: bytes = b"",
        *,
        close: bool = False,
    ) -> None:
        self.status = status
        self.headers = [] if headers is None else headers
        self.body = body
        self.close = close
        self.packed = False
        self.stream: AsyncGenerator[bytes, None] | None = None
        self.stream_size: int | None = 0
        self.repeats = ""
        self.timing: Timing | None = None
        self.version: int | None = None

    @classmethod
    def text(cls, status: int, text: str) -> "Response":
        """A plain text, as errors are; without Content-Type when empty."""
        body = text.encode("utf-8", "replace")
        return cls(status, [PLAIN] if body else [], body)

    def header(self, name: str) -> str | None:
        """Value of a header, in whichever case it is spelled; None when absent."""
        wanted = name.lower()
        return next((value for name, value in self.headers if name.lower() == wanted), None)


def consistency_header(meta: QueryMeta, level: str) -> Header:
    """How consistent an answer is.

    Args:
        meta: Of the reply, if that says it.
        level: What was asked for.
    """
    return ("X-Consul-Effective-Consistency", meta.consistency_level or level)


def meta_headers(meta: QueryMeta, *, consistency: bool = False) -> list[Header]:
    """What a reply says about itself, as headers.

    Args:
        meta: Of the reply. An index of 0 is sent as 1.
        consistency: Whether the endpoint tells its effective consistency.
    """
    headers = [
        ("X-Consul-Index", str(meta.index or 1)),
        ("X-Consul-Knownleader", "true" if meta.known_leader else "false"),
        ("X-Consul-Lastcontact", str(int(meta.last_contact) // MILLISECOND)),
        ("X-Consul-Query-Backend", _BACKENDS[1 if meta.backend == 1 else 0]),
    ]
    if consistency and meta.consistency_level:
        headers.append(("X-Consul-Effective-Consistency", meta.consistency_level))
    return headers
