"""What can be selected of records of any kind of field."""

import pytest

from isthmus.bexpr.selectors import TEXT, Listing, Mapping, Scalar, Structure, select, shape_of
from isthmus.bexpr.syntax import BadExpression, Operator
from isthmus.model.record import Float32, Record, Uint
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration


class Inner(Record, frozen=True, kw_only=True):
    name: str = ""
    create_index: Uint = 0


class Outer(Record, frozen=True, kw_only=True):
    filter_hidden = frozenset({"secret"})

    inner: Inner | None = None
    secret: str = ""
    anything: object = None
    things: dict[str, object] | None = None
    lists: tuple[tuple[str, ...], ...] = ()
    maps: tuple[dict[str, int], ...] = ()
    data: bytes = b""
    share: Float32 = 0.0
    wait: Duration = Duration(0)
    at: Timestamp | None = None


class Further(Outer, frozen=True, kw_only=True):
    filter_hidden = frozenset({"wait"})

    dns_ttl: Duration = Duration(0)


def refusal(*selector: str, record: type[Record] = Outer) -> str:
    with pytest.raises(BadExpression) as caught:
        select(record, selector)
    return caught.value.reason


def test_fields_are_named_as_in_go() -> None:
    assert set(shape_of(Further).fields) == {
        *("DNSTTL", "Inner", "Things", "Lists", "Maps", "Data", "Share", "At"),
    }


def test_names_lead_through_records_lists_and_maps() -> None:
    assert select(Outer, ("Inner", "Name")) is TEXT
    assert isinstance(select(Outer, ("Inner",)), Structure)
    assert isinstance(select(Outer, ("Lists",)), Listing)
    number = select(Outer, ("Maps", "any"))
    assert isinstance(number, Scalar)
    assert number.parse("0x10") == 16
    assert isinstance(select(Outer, ("Things",)), Mapping)


def test_what_leads_nowhere_is_named_up_to_there() -> None:
    assert refusal("Nope", "x") == 'Selector "Nope" is not valid'
    assert refusal("Inner", "Nope", "x") == 'Selector "Inner.Nope" is not valid'
    assert refusal("Inner", "Name", "x") == 'Selector "Inner.Name.x" is not valid'
    assert refusal("Lists", "x") == 'Selector "Lists.x" is not valid'
    assert refusal('a"b') == 'Selector "a\\"b" is not valid'


@pytest.mark.parametrize(
    "selector", [("Secret",), ("Anything",), ("Things", "k"), ("Inner", "CreateIndex"), ("inner",)]
)
def test_hidden_fields_and_free_values_cannot_be_selected(selector: tuple[str, ...]) -> None:
    assert refusal(*selector).endswith("is not valid")


def test_hidden_fields_of_a_base_stay_hidden() -> None:
    assert refusal("Secret", record=Further)
    assert refusal("Wait", record=Further)
    assert select(Outer, ("Wait",)).parse("1_000") == 1000


def test_operators_depend_on_the_kind() -> None:
    membership = {Operator.IN, Operator.NOT_IN}
    emptiness = {Operator.IS_EMPTY, Operator.IS_NOT_EMPTY}
    equality = {Operator.EQUAL, Operator.NOT_EQUAL}
    patterns = {Operator.MATCHES, Operator.NOT_MATCHES}
    assert select(Outer, ("Inner", "Name")).operators == equality | membership | patterns
    assert select(Outer, ("Share",)).operators == equality
    assert select(Outer, ("Data",)).operators == membership | emptiness
    assert select(Outer, ("Lists",)).operators == emptiness
    assert select(Outer, ("Things",)).operators == membership | emptiness
    assert select(Outer, ("At",)).operators == set()
