"""Which handler answers which path and method.

Source: protocol/http-api.md §1: an endpoint is an exact path, or a prefix that ends in a slash.
"""

import posixpath
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from isthmus.http.context import Context
from isthmus.http.request import Request
from isthmus.http.response import Response

Handler = Callable[[Context, Request], Awaitable[Response]]

BODY_SIZE_MAX: Final = 2 * 1024 * 1024
"""Largest body of a request to an endpoint that sets no limit of its own."""


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint.

    Attributes:
        path: Exact, or a prefix with a slash at its end.
        handlers: By method, in the order in which ``Allow`` lists them.
        tells_state: Whether a failed call is answered with the headers of a state query.
        streams: Whether a handler takes the body of a request while it arrives.
        kv_limit: Whether a body may be as large as a key's value, instead of `BODY_SIZE_MAX`.
        txn_limit: Whether it may be as large as a transaction.
        repeats: The RPC method that a GET calls, where the answer about our own datacenter follows
            from the request and the tables alone; empty otherwise.
    """

    path: str
    handlers: Mapping[str, Handler]
    tells_state: bool = False
    kv_limit: bool = False
    txn_limit: bool = False
    streams: bool = False
    repeats: str = ""

    @property
    def allow(self) -> str:
        """Value of the ``Allow`` header."""
        return ",".join(dict.fromkeys(("OPTIONS", *self.handlers)))


class Routes:
    """All endpoints, found by path.

    Args:
        routes: With paths that differ.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, Route] = {}
        self._prefixes: dict[str, list[Route]] = {}
        for route in routes:
            if route.path.endswith("/"):
                self._prefixes.setdefault(_area(route.path), []).append(route)
            else:
                self._exact[route.path] = route
        for prefixes in self._prefixes.values():
            prefixes.sort(key=lambda route: len(route.path), reverse=True)

    def find(self, path: str) -> Route | None:
        """The endpoint of an unescaped path; of several prefixes the longest."""
        route = self._exact.get(path)
        if route is not None:
            return route
        for route in self._prefixes.get(_area(path), ()):
            if path.startswith(route.path):
                return route
        return None


def _area(path: str) -> str:
    """Second segment of a path: ``kv`` in ``/v1/kv/a/b``."""
    return path.split("/", 3)[2] if path.count("/", 0, 5) > 1 else ""


def clean_path(path: str) -> str:
    """A path without empty segments and dots, as Go's mux wants it; a slash at the end stays."""
    if "//" not in path and "/." not in path:
        return path
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned
