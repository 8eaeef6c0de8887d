"""Messages from tables of field numbers."""

import pytest

from isthmus.wire.protobuf import make_messages

MESSAGES = make_messages(
    "isthmus.test_protobuf",
    {
        "Inner": "name:string=1 count:uint64=2",
        "Outer": "inner:Inner=1 many:Inner*=2 by_name:Inner{}=3 words:string{}=4 raw:bytes=16 "
        "yes:bool=5 wait:Duration=6 more:Struct=7 numbers:int32*=8",
    },
)


def test_fields_have_the_numbers_of_the_table() -> None:
    inner, outer = MESSAGES["Inner"], MESSAGES["Outer"]
    assert inner(name="a", count=300).SerializeToString() == b"\x0a\x01a\x10\xac\x02"
    assert outer(inner=inner(name="a")).SerializeToString() == b"\x0a\x03\x0a\x01a"
    assert outer(words={"k": "v"}).SerializeToString() == b"\x22\x06\x0a\x01k\x12\x01v"
    assert outer(raw=b"\xff").SerializeToString() == b"\x82\x01\x01\xff"
    assert outer(numbers=[1, 2]).SerializeToString() == b"\x42\x02\x01\x02"


def test_messages_are_read_back() -> None:
    inner, outer = MESSAGES["Inner"], MESSAGES["Outer"]
    message = outer(many=[inner(name="a"), inner(name="b")], yes=True)
    message.by_name["x"].count = 7
    message.wait.seconds = 3
    message.more["k"] = [1.0, None, "t"]
    again = outer.FromString(message.SerializeToString())
    assert [each.name for each in again.many] == ["a", "b"]
    assert again.by_name["x"].count == 7
    assert again.wait.seconds == 3
    assert list(again.more["k"]) == [1.0, None, "t"]
    assert again == message


def test_message_that_the_table_lacks_is_refused() -> None:
    with pytest.raises(TypeError, match="Missing"):
        make_messages("isthmus.test_protobuf_bad", {"Outer": "inner:Missing=1"})
