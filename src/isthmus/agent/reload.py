"""A new configuration for a running agent: every part takes its own, or none does.

Source: protocol/cli-config-dns.md §2.5.
"""

import logging
from collections.abc import Callable
from typing import Final

from isthmus.config.model import AgentConfig
from isthmus.config.reload import reloadable_changes, take_over
from isthmus.errors import IsthmusError, RequestError

logger = logging.getLogger(__name__)

REFUSALS: Final = (IsthmusError, OSError, ValueError)
"""What a part raises that cannot take a configuration; it goes on with the one it has."""


class Reloading:
    """Who takes which part of a new configuration.

    Attributes:
        read: Reads the configuration; None where there is nothing to read, as in tests.
    """

    def __init__(self) -> None:
        self.read: Callable[[], AgentConfig] | None = None
        self._takers: list[Callable[[AgentConfig], None]] = []

    def add(self, take: Callable[[AgentConfig], None]) -> None:
        """Call `take` with each new configuration, after those that were added before.

        It raises one of `REFUSALS` if it cannot take it, and has changed nothing then.
        """
        self._takers.append(take)

    def run(self, held: AgentConfig) -> AgentConfig:
        """Read the configuration, and have everybody take it.

        Args:
            held: What everybody goes by now.

        Returns:
            What everybody goes by from now on.

        Raises:
            RequestError: It is wrong, or a part refused it; all go by `held` as before.
        """
        if self.read is None:
            raise RequestError("this agent was started without files that it could read again")
        try:
            fresh = self.read()
        except REFUSALS as error:
            raise _refused(error) from error
        wanted = take_over(held, fresh)
        taken = list[Callable[[AgentConfig], None]]()
        for take in self._takers:
            try:
                take(wanted)
            except REFUSALS as error:
                for undo in taken:  # In the same order: later ones may look at earlier ones.
                    undo(held)
                raise _refused(error) from error
            taken.append(take)
        if needs_restart := reloadable_changes(held, fresh).restart:
            logger.warning("needs a restart to take effect: %s", ", ".join(needs_restart))
        logger.info("configuration reloaded")
        return wanted


def _refused(error: Exception) -> RequestError:
    logger.error("reload refused, the old configuration stays: %s", error)
    return RequestError(f"reload refused, the old configuration stays: {error}")
