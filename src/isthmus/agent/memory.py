"""How the process gives memory back.

The C library raises, by itself, the size from which a block is a mapping of its own, up to 32 MiB
after the first large block was freed. From then on large answers and requests lie in the heap,
and the holes that they leave there stay resident: a burst of slow readers would cost a gigabyte
for the rest of the agent's life.
"""

import contextlib
import ctypes
from typing import Final

MAPPED_SIZE_MIN: Final = 1024 * 1024
"""Blocks of so many bytes and more are given back as soon as they are freed."""

_M_MMAP_THRESHOLD: Final = -3  # Of glibc's <malloc.h>.


def give_back_large_blocks() -> None:
    """Have large blocks given back when they are freed; nothing where the C library has no say."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MAPPED_SIZE_MIN)
