"""Functions generated from the records' declarations, for the codecs whose speed counts.

A codec writes the text of the function one would write by hand for a record type; the result
is straight-line code without a look at the declaration per value.
"""

from collections.abc import Callable
from typing import Any, cast


class Source:
    """Source text of one function, and the objects it refers to."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}

    def bind(self, thing: Any) -> str:
        """Name under which the function sees an object."""
        name = f"_{len(self._names)}"
        self._names[name] = thing
        return name

    def function(self, parameter: str, body: list[str]) -> Callable[[Any], Any]:
        """Compile a function of one parameter; `body` is its lines, unindented."""
        text = "\n    ".join([f"def function({parameter}):", *body])
        # The text comes from our own declarations alone, never from a peer.
        exec(compile(text, "<isthmus.wire.source>", "exec"), self._names)
        return cast(Callable[[Any], Any], self._names["function"])
