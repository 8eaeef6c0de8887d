"""The id of this agent's node, which outlives its address and its name."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from isthmus.config.model import AgentConfig
from isthmus.errors import ConfigError, Mistake

NODE_ID_FILE: Final = "node-id"


def node_id(config: AgentConfig, entropy: Callable[[int], bytes]) -> str:
    """The configured node id, else the one kept in `data_dir`, else a new one that is kept.

    Raises:
        ConfigError: The file holds no UUID or cannot be read or written.
    """
    if kept := kept_node_id(config):
        return kept
    fresh = str(uuid.UUID(bytes=entropy(16), version=4))
    if config.data_dir is None:
        return fresh
    path = config.data_dir / NODE_ID_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fresh)
    except OSError as error:
        raise _mistake(path, error) from error
    return fresh


def kept_node_id(config: AgentConfig) -> str:
    """The configured node id, else the one kept in `data_dir`; empty if there is none yet.

    Raises:
        ConfigError: The file holds no UUID or cannot be read.
    """
    if config.node_id:
        return config.node_id.lower()
    if config.data_dir is None:
        return ""
    path = config.data_dir / NODE_ID_FILE
    try:
        return str(uuid.UUID(path.read_text().strip())) if path.exists() else ""
    except (OSError, ValueError) as error:
        raise _mistake(path, error) from error


def _mistake(path: Path, error: Exception) -> ConfigError:
    if isinstance(error, OSError):
        text = f"cannot be used: {error.strerror or error}"
        remedy = "give the agent a data_dir that it may write, or set node_id to a UUID"
    else:
        text = f"cannot be used: {error}"
        remedy = "write the node's UUID into that file; for a new node remove it"
    return ConfigError([Mistake(str(path), "node_id", text, remedy)])
