"""What the agent says of itself."""

from isthmus.agent.identity import identity, node_facts
from isthmus.config.model import AddressConfig, AgentConfig, TlsConfig


def test_identity_and_facts_follow_the_configuration() -> None:
    config = AgentConfig(
        node_name="s1",
        datacenter="dc2",
        bootstrap_expect=1,
        tls=TlsConfig(ca_file="ca.pem"),
        node_meta={"rack": "7"},
        addresses=AddressConfig(advertise="10.0.0.1", tagged={"wan": "192.0.2.1"}),
    )
    own = identity(config, "id-1")
    assert (own.node, own.node_id, own.dc) == ("s1", "id-1", "dc2")
    assert (own.rpc_port, own.wan_port, own.bootstrap, own.expect) == (8300, 8302, True, 1)
    assert own.uses_tls
    facts = node_facts(config, "id-1")
    assert (facts.dc, facts.node, facts.address) == ("dc2", "s1", "10.0.0.1")
    assert facts.tagged_addresses == {"wan": "192.0.2.1"}
    assert facts.meta == {"consul-network-segment": "", "rack": "7"}
