"""How much of an output is kept, and what says so."""

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.checks.result import Tail, cut_note, dial_failure


@given(st.lists(st.binary(max_size=20)), st.integers(1, 30))
def test_last_bytes_are_kept(parts: list[bytes], size_max: int) -> None:
    tail, whole = Tail(size_max), b"".join(parts)
    for part in parts:
        tail.add(part)
    assert tail.text == whole[-size_max:].decode(errors="replace")
    assert tail.total == len(whole)


def test_notice_says_how_much_was_cut() -> None:
    tail = Tail(4)
    tail.add(b"abcd")
    assert tail.text_with_notice == "abcd"
    tail.add(b"ef")
    assert tail.text_with_notice == "Captured 4 of 6 bytes\n...\ncdef"


def test_note_is_cut_between_characters() -> None:
    assert cut_note("fine", 4) == "fine"
    assert cut_note("aü", 2) == "a ... (captured 2 of 3 bytes)"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ECONNREFUSED, "x"), "dial tcp h:80: connect: connection refused"),
        (OSError(errno.EHOSTUNREACH, "x"), "dial tcp h:80: connect: no route to host"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "dial tcp: lookup h: no such host"),
        (OSError("several reasons"), "dial tcp h:80: several reasons"),
    ],
)
def test_failed_connection_is_told_as_go_tells_it(error: OSError, text: str) -> None:
    assert dial_failure(error, "h", 80) == text
