"""Who this agent is: its node id, and what it tells others about itself."""

import uuid
from collections.abc import Callable
from pathlib import Path

from isthmus.agent.local import NodeFacts
from isthmus.agent.members import Identity
from isthmus.config.model import AgentConfig
from isthmus.errors import ConfigError, Mistake

NODE_ID_FILE = "node-id"
_SEGMENT_META = "consul-network-segment"


def node_id(config: AgentConfig, entropy: Callable[[int], bytes]) -> str:
    """The configured node id, else the one kept in `data_dir`, else a new one that is kept.

    Raises:
        ConfigError: The file holds no UUID or cannot be read or written.
    """
    if config.node_id:
        return config.node_id.lower()
    fresh = str(uuid.UUID(bytes=entropy(16), version=4))
    if config.data_dir is None:
        return fresh
    path = config.data_dir / NODE_ID_FILE
    try:
        if path.exists():
            return str(uuid.UUID(path.read_text().strip()))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fresh)
    except (OSError, ValueError) as error:
        raise _mistake(path, error) from error
    return fresh


def identity(config: AgentConfig, own_id: str) -> Identity:
    """What this server's tags say."""
    return Identity(
        node=config.node_name,
        node_id=own_id,
        dc=config.datacenter,
        rpc_port=config.ports.server,
        wan_port=config.ports.serf_wan,
        bootstrap=config.bootstrap or config.bootstrap_expect == 1 or config.dev,
        expect=config.bootstrap_expect,
        uses_tls=bool(config.tls.ca_file or config.tls.ca_path),
    )


def node_facts(config: AgentConfig, own_id: str) -> NodeFacts:
    """What the catalog is told of this node."""
    return NodeFacts(
        dc=config.datacenter,
        node=config.node_name,
        node_id=own_id,
        address=config.addresses.advertise,
        tagged_addresses=dict(config.addresses.tagged),
        meta={_SEGMENT_META: "", **config.node_meta},
    )


def _mistake(path: Path, error: Exception) -> ConfigError:
    if isinstance(error, OSError):
        text = f"cannot be used: {error.strerror or error}"
        remedy = "give the agent a data_dir that it may write, or set node_id to a UUID"
    else:
        text = f"cannot be used: {error}"
        remedy = "write the node's UUID into that file; for a new node remove it"
    return ConfigError([Mistake(str(path), "node_id", text, remedy)])
