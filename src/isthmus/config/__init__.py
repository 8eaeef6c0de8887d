"""Files and flags → the components' configuration records; all mistakes reported at once."""

from isthmus.config.loader import load
from isthmus.config.model import AgentConfig
from isthmus.config.reload import reloadable_changes
from isthmus.config.sources import ConfigPath, ConfigText, Source
from isthmus.config.start import unreadable, unsupported
from isthmus.config.surroundings import Surroundings

__all__ = [
    "AgentConfig",
    "ConfigPath",
    "ConfigText",
    "Source",
    "Surroundings",
    "load",
    "reloadable_changes",
    "unreadable",
    "unsupported",
]
