"""An answer without an end, line by line: log lines, metrics."""

import contextlib
import http.client
import socket
from collections.abc import Iterator


class Stream:
    """The lines of an answer, as they come.

    Args:
        answer: Its head has arrived.
        carrier: The socket that brings it.
    """

    def __init__(self, answer: http.client.HTTPResponse, carrier: socket.socket) -> None:
        self._answer, self._carrier = answer, carrier

    def __iter__(self) -> Iterator[bytes]:
        """Yield lines without their ends, until the agent or `close` ends it."""
        try:
            while line := self._answer.readline():
                yield line.rstrip(b"\r\n")
        except (OSError, ValueError, http.client.HTTPException):
            return  # However it broke, nothing follows.
        finally:
            self._answer.close()
            self._carrier.close()

    def close(self) -> None:
        """End it, from any thread; who waits for a line waits no more."""
        with contextlib.suppress(OSError):
            self._carrier.shutdown(socket.SHUT_RDWR)
