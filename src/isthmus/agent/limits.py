"""What the system allows the process, raised as far as it may be."""

import resource
from typing import Final

DESCRIPTORS_WANTED: Final = 65_536
"""Open files: every connection is one, and the usual soft limit of 1024 serves few clients."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files towards `DESCRIPTORS_WANTED`; return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= DESCRIPTORS_WANTED:
        return soft
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
