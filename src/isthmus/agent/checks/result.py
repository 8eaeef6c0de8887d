"""What a check found, and how much of its output is kept."""

import os
import socket
from typing import NamedTuple

from isthmus.model.catalog import CRITICAL


class Result(NamedTuple):
    """State of a check.

    Attributes:
        status: ``passing``, ``warning`` or ``critical``.
        output: Why, for people.
        certain: It counts at once, however often the check may fail before that is believed.
    """

    status: str
    output: str
    certain: bool = False


def critical(output: str) -> Result:
    """What was looked at does not work."""
    return Result(CRITICAL, output)


def dial_failure(error: OSError, host: str, port: int | None) -> str:
    """Why there is no connection, as Go words it: alerts look for such texts."""
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {host}: no such host"
    if error.errno is not None and error.errno > 0:
        return f"dial tcp {host}:{port}: connect: {os.strerror(error.errno).lower()}"
    return f"dial tcp {host}:{port}: {error}"


class Tail:
    """The last bytes of an output, and how many there were.

    Args:
        size_max: Bytes that are kept.
    """

    def __init__(self, size_max: int) -> None:
        assert size_max > 0
        self._kept, self._size_max = bytearray(), size_max
        self.total = 0

    def add(self, data: bytes) -> None:
        """Take more output."""
        self.total += len(data)
        self._kept += data
        if len(self._kept) > self._size_max:
            del self._kept[: -self._size_max]

    @property
    def text(self) -> str:
        """The last bytes as text; what is no UTF-8 is marked."""
        return self._kept.decode(errors="replace")

    @property
    def text_with_notice(self) -> str:
        """The same, beginning with a notice when something was cut."""
        if self.total == len(self._kept):
            return self.text
        return f"Captured {len(self._kept)} of {self.total} bytes\n...\n{self.text}"


def cut_note(text: str, size_max: int) -> str:
    """The beginning of a text that its owner sent, with a notice when something was cut."""
    data = text.encode()
    if len(data) <= size_max:
        return text
    kept = data[:size_max].decode(errors="ignore")
    return f"{kept} ... (captured {size_max} of {len(data)} bytes)"
