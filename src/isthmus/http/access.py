"""Which requests the operator's configuration refuses, whoever asks.

Source: protocol/http-api.md §3, `http_config`.
"""

from collections.abc import Iterable
from typing import Final

from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.model.network import Networks

_BLOCKED: Final = "Endpoint is blocked by agent configuration"
_READ_ONLY: Final = "Access is restricted"
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Access:
    """Rules about paths and clients.

    Args:
        block_endpoints: Paths that are refused, with all that start like them.
        write_networks: Networks whose clients may write; empty: everybody may. A client on a unix
            socket is in no network.
    """

    def __init__(
        self, *, block_endpoints: Iterable[str] = (), write_networks: Iterable[str] = ()
    ) -> None:
        self._blocked = tuple(block_endpoints)
        self._writers = Networks(write_networks)

    def __bool__(self) -> bool:
        """Whether there are any rules."""
        return bool(self._blocked) or bool(self._writers)

    def refusal(self, request: Request, path: str) -> Response | None:
        """The answer to a request that a rule forbids; None if none does.

        Args:
            request: Of which its head is known.
            path: Its unescaped path.
        """
        if path.startswith(self._blocked):
            return Response.text(403, _BLOCKED)
        if self._writers and request.method not in _READING and request.peer not in self._writers:
            return Response.text(403, _READ_ONLY)
        return None
