"""What this agent tells others about itself."""

from isthmus.agent.local import NodeFacts
from isthmus.agent.members import Identity
from isthmus.config.model import AgentConfig

_SEGMENT_META = "consul-network-segment"


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
