"""Equal values are kept once, and never confused."""

from hypothesis import given
from hypothesis.strategies import lists

from isthmus.model.catalog import ConnectProxyConfig, NodeService
from isthmus.model.record import Record
from isthmus.store.catalog import ServiceRow
from isthmus.store.rows import decode_row, encode_row
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


def test_taken_rows_are_shared_where_they_are() -> None:
    sharing = Sharing()
    ours, theirs = make_service(id="a"), make_service(id="b", port=1)
    sharing.take([ours, theirs])
    assert ours == make_service(id="a")
    assert theirs == make_service(id="b", port=1)
    assert ours.tags is theirs.tags
    assert ours.meta is theirs.meta
    assert ours.service is theirs.service
    later = make_service(id="c")
    sharing.take([later])
    assert later.meta is ours.meta


def test_taken_rows_share_what_records_inside_them_hold() -> None:
    sharing = Sharing()
    rows = [ServiceRow(node="n", service=make_service(id=name)) for name in "ab"]
    sharing.take(rows)
    first, second = [row.service for row in rows]
    assert first.tags is second.tags
    assert (first.id, second.id) == ("a", "b")


def test_what_rarely_repeats_takes_no_place_in_the_pool() -> None:
    sharing = Sharing()
    long = "w" * 65
    sharing.take([NodeService(id=f"web-{number}", service="web") for number in range(100)])
    sharing.take([NodeService(service=long), NodeService(service="web")])
    assert len(sharing) == 1


@given(lists(values(ServiceRow), max_size=4))
def test_taken_rows_are_equal(rows: list[ServiceRow]) -> None:
    sharing = Sharing()
    for _ in range(2):
        fresh = [decode_row(ServiceRow, encode_row(row)) for row in rows]
        sharing.take(fresh)
        assert fresh == rows


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
