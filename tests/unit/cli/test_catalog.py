"""catalog datacenters, nodes, services."""

from support.cli import Cli, FakeAgent

NODES = [
    {
        "Node": "alpha",
        "ID": "40e4a748-2192-161a-0510-9bf59fe950b5",
        "Address": "10.0.0.1",
        "Datacenter": "dc1",
        "TaggedAddresses": {"wan": "192.0.2.1", "lan": "10.0.0.1"},
        "Meta": {"rack": "7"},
    },
    {"Node": "b", "ID": "", "Address": "10.0.0.2", "Datacenter": "dc1"},
]


def test_datacenters_are_listed_as_answered(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/catalog/datacenters", ["dc2", "dc1"])
    assert cli("catalog", "datacenters").out == "dc2\ndc1\n"


def test_nodes_are_a_table(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/catalog/nodes", NODES)
    result = cli("catalog", "nodes", "-near=_agent", "-node-meta=rack=7", "-datacenter=dc1")
    assert result.out == (
        "Node   ID        Address   DC\n"
        "alpha  40e4a748  10.0.0.1  dc1\n"
        "b                10.0.0.2  dc1\n"
    )
    assert agent.last[2] == {"near": ["_agent"], "node-meta": ["rack:7"], "dc": ["dc1"]}


def test_detailed_nodes_show_everything(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/catalog/nodes", NODES[:1])
    out = cli("catalog", "nodes", "-detailed").out
    assert "40e4a748-2192-161a-0510-9bf59fe950b5" in out
    assert "lan=10.0.0.1,wan=192.0.2.1  rack=7" in out


def test_nodes_of_a_service_are_listed_once(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/catalog/service/web", [NODES[0], NODES[0]])
    assert cli("catalog", "nodes", "-service=web").out.count("alpha") == 1


def test_nodes_are_filtered_by_the_agent(cli: Cli, agent: FakeAgent) -> None:
    expression = 'Meta.rack == "7" and TaggedAddresses is not empty'
    agent.answer("/v1/catalog/nodes", NODES[:1])
    result = cli("catalog", "nodes", f"-filter={expression}", "-datacenter=dc2")
    assert result.out.splitlines()[1:] == ["alpha  40e4a748  10.0.0.1  dc1"]
    assert agent.last[2] == {"filter": [expression], "dc": ["dc2"]}
    agent.answer("/v1/catalog/service/web", NODES[:1])
    cli("catalog", "nodes", "-service=web", "-filter", "ServicePort != 80")
    assert agent.last[2] == {"filter": ["ServicePort != 80"]}


def test_wrong_filter_is_told_as_the_agent_tells_it(cli: Cli, agent: FakeAgent) -> None:
    text = 'Failed to create boolean expression evaluator: Selector "X" is not valid'
    agent.answer("/v1/catalog/nodes", text.encode(), status=500)
    result = cli("catalog", "nodes", "-filter=X == 1")
    assert result.code == 1
    assert result.err.startswith("Error listing nodes: ")
    assert text in result.err


def test_nothing_found_is_said_and_is_no_error(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/catalog/nodes", [])
    result = cli("catalog", "nodes")
    assert (result.code, result.out) == (0, "")
    assert result.err == "No nodes match the given query - try expanding your search.\n"


def test_services_are_sorted_with_or_without_tags(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/catalog/services", {"web": ["v2", "v1"], "consul": []})
    assert cli("catalog", "services").out == "consul\nweb\n"
    assert cli("catalog", "services", "-tags").out == "consul\nweb         v1,v2\n"


def test_services_of_a_node(cli: Cli, agent: FakeAgent) -> None:
    services = {"w1": {"Service": "web", "Tags": ["a"]}, "w2": {"Service": "web", "Tags": ["b"]}}
    agent.answer("/v1/catalog/node/alpha", {"Node": NODES[0], "Services": services})
    assert cli("catalog", "services", "-node=alpha", "-tags").out == "web      a,b\n"
