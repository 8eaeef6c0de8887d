"""Equal values are kept once, and never confused."""

from hypothesis import given

from isthmus.model.catalog import ConnectProxyConfig, NodeService
from isthmus.model.record import Record
from isthmus.store.sharing import Sharing
from support.records import values


def make_service(**changes: object) -> NodeService:
    text = "".join(["w", "eb"])  # Not interned by the compiler.
    return NodeService(service=text, tags=(text, "b"), meta={text: text}, **changes)  # type: ignore[arg-type]


def test_equal_values_become_one() -> None:
    sharing = Sharing()
    ours, theirs = sharing.row(make_service()), sharing.row(make_service(port=1))
    assert ours.tags is theirs.tags
    assert ours.meta is theirs.meta
    assert ours.proxy is theirs.proxy
    assert ours.service is theirs.service


def test_numbers_that_are_equal_but_not_the_same_stay_apart() -> None:
    sharing = Sharing()
    for value in (1, 1.0, True):
        proxy = ConnectProxyConfig(config={"a": value}, destination_service_name="x")
        config = sharing.row(make_service(proxy=proxy)).proxy.config
        assert config is not None
        assert type(config["a"]) is type(value)


@given(values(NodeService))
def test_shared_row_is_equal(service: NodeService) -> None:
    sharing = Sharing()
    assert sharing.row(service) == service
    assert sharing.row(service) == service


class Holder(Record, frozen=True, kw_only=True):
    """Records by name, as `NodeService.tagged_addresses` holds them."""

    proxies: dict[str, ConnectProxyConfig] | None = None


def test_what_cannot_be_looked_up_is_left_as_it_is() -> None:
    sharing = Sharing()
    configs: list[dict[str, object]] = [{"a": 1}, {"a": True}]
    for config in configs:
        holder = Holder(proxies={"p": ConnectProxyConfig(config=config)})
        assert sharing.row(holder) is holder


def test_pool_is_bounded() -> None:
    sharing = Sharing(values_max=10)
    for number in range(100):
        sharing.row(NodeService(service=f"s{number}"))
    assert len(sharing) < 30
