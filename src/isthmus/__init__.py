"""isthmus: the open federation of datacenters.

Read ``docs/architecture.md`` for the story of a packet through these packages.
"""

__version__ = "0.1.0"
