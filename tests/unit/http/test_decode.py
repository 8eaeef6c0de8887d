import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import InvalidRequest
from isthmus.http.decode import decode, decode_list, syntax_fault
from isthmus.model.agent import CheckDefinition, CheckUpdate, ServiceDefinition
from isthmus.model.catalog import RegisterRequest
from isthmus.units import Duration


def test_names_match_without_regard_to_case() -> None:
    assert decode(CheckUpdate, b'{"status":"passing","OUTPUT":"x"}').output == "x"


def test_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(CheckUpdate, b'{"Status":"passing","Bogus":1}')
    assert str(caught.value) == 'Request decode failed: json: unknown field "Bogus"'


def test_registration_takes_snake_case_and_leaves_the_users_keys() -> None:
    body = {
        "name": "web",
        "enable_tag_override": True,
        "meta": {"a_b": "c", "Enable_Tag_Override": "d"},
        "tagged_addresses": {"lan_ipv4": {"address": "10.0.0.1", "port": 1}},
        "proxy": {"destination_service_name": "x", "config": {"local_port": 1}},
        "check": {"deregister_critical_service_after": "10s", "http": "u", "interval": 1000000000},
        "checks": [{"id": "c", "args": ["true"], "tls_skip_verify": True}],
    }
    found = decode(ServiceDefinition, json.dumps(body).encode(), snake_case=True)
    assert found.enable_tag_override
    assert found.meta == {"a_b": "c", "Enable_Tag_Override": "d"}
    assert found.tagged_addresses is not None
    assert found.tagged_addresses["lan_ipv4"].port == 1
    assert found.proxy is not None
    assert found.proxy.config == {"local_port": 1}
    assert found.check == CheckDefinition(
        deregister_critical_service_after=Duration.of(10), http="u", interval=Duration.of(1)
    )
    assert found.checks == (
        CheckDefinition(check_id="c", script_args=("true",), tls_skip_verify=True),
    )


def test_snake_case_is_unknown_where_it_is_not_taken() -> None:
    with pytest.raises(InvalidRequest, match='unknown field "skip_node_update"'):
        decode(RegisterRequest, b'{"skip_node_update":true}')


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "EOF"),
        (b" \n", "EOF"),
        (b"{bad}", "invalid character 'b' looking for beginning of object key string"),
        (b'{"a"}', "invalid character '}' after object key"),
        (b'{"a":1 2}', "invalid character '2' after object key:value pair"),
        (b'{"a":[1 2]}', "invalid character '2' after array element"),
        (b'{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        (b'{"a":-x}', "invalid character 'x' in numeric literal"),
        (b'{"a":\'}', r"invalid character '\'' looking for beginning of value"),
        (b'{"a":"\n"}', r"invalid character '\n' in string literal"),
        (b'{"a":"\\x"}', "invalid character 'x' in string escape code"),
        (b'{"a":"\\u00g0"}', r"invalid character 'g' in \u hexadecimal character escape"),
        (b'{"a":"b', "unexpected EOF"),
        (b'{"a":', "unexpected EOF"),
        (b"{} x", "invalid character 'x' after top-level value"),
        (b"[" * 5000, "exceeded max depth"),
    ],
)
def test_syntax_errors_are_worded_as_go_words_them(body: bytes, fault: str) -> None:
    assert syntax_fault(body) == fault
    with pytest.raises(InvalidRequest) as caught:
        decode(CheckUpdate, body, snake_case=True)
    assert str(caught.value) == f"Request decode failed: {fault}"


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_has_no_fault(value: object) -> None:
    assert syntax_fault(json.dumps(value).encode()) == ""


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_a_record_or_a_refusal(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(decode(ServiceDefinition, body, snake_case=True), ServiceDefinition)


def decoded_list(body: bytes) -> tuple[ServiceDefinition, ...]:
    return decode_list(ServiceDefinition, body, type_name="api.Things", prefix="Bad: ")


def test_list_of_records_is_read_and_null_is_empty() -> None:
    assert [one.name for one in decoded_list(b' [{"Name":"a"},{"name":"b"}]')] == ["a", "b"]
    assert decoded_list(b"null") == decoded_list(b"[]") == ()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "EOF"),
        (b"[", "unexpected EOF"),
        (b" {}", "json: cannot unmarshal object into Go value of type api.Things"),
        (b"-1", "json: cannot unmarshal number into Go value of type api.Things"),
        (b'[{"X":1}]', 'json: unknown field "X"'),
    ],
)
def test_what_is_no_list_of_records_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoded_list(body)
    assert str(caught.value) == f"Bad: {text}"


def test_unknown_names_may_be_skipped() -> None:
    assert decode(ServiceDefinition, b'{"X":{"Y":1},"Name":"a"}', ignore_unknown=True).name == "a"
