"""What errors carry to the borders."""

import pytest

from isthmus import errors
from isthmus.errors import ConfigError, Mistake


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        (Mistake("a.hcl", "ports", "is odd", "say 8300"), "a.hcl: ports: is odd; say 8300"),
        (Mistake("flag", "", "is odd"), "flag: is odd"),
        (Mistake("", "", "is odd"), "is odd"),
    ],
)
def test_mistake_is_one_line(mistake: Mistake, text: str) -> None:
    assert str(mistake) == text


def test_configuration_error_lists_all_mistakes() -> None:
    first, second = Mistake("a", "b", "c"), Mistake("d", "e", "f")
    error = ConfigError([first, second])
    assert error.mistakes == (first, second)
    assert str(error) == "a: b: c\nd: e: f"


def test_protocol_error_tells_the_offset_when_it_is_known() -> None:
    assert str(errors.MalformedPacket("cut off", offset=7)) == "cut off (at byte 7)"
    assert str(errors.MalformedPacket("cut off")) == "cut off"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.RequestError("x"), 500),
        (errors.RequestError("x", status=409), 409),
        (errors.InvalidRequest("x"), 400),
        (errors.NotFound("x"), 404),
        (errors.PermissionDenied(), 403),
        (errors.RemoteError("rpc error making call: Permission denied"), 403),
        (errors.RemoteError("ACL not found"), 403),
        (errors.RemoteError("No cluster leader"), 500),
    ],
)
def test_request_errors_carry_a_status(error: errors.RequestError, status: int) -> None:
    assert error.status == status


def test_status_of_one_error_is_not_that_of_its_class() -> None:
    errors.RequestError("x", status=409)
    assert errors.RequestError("y").status == 500


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.NoLeader(), "No cluster leader"),
        (errors.NoPathToDatacenter("dc9"), "No path to datacenter"),
        (errors.PermissionDenied(), "Permission denied"),
        (errors.EngineError("disk full", operation="commit"), "commit: disk full"),
    ],
)
def test_texts_are_those_that_clients_match(error: Exception, text: str) -> None:
    assert str(error) == text


def test_failed_dial_names_the_broken_hop() -> None:
    error = errors.DialFailed("refused", dc="dc2", node="*", gateway="g:8443", step="connect")
    assert (error.dc, error.node, error.gateway, error.step) == ("dc2", "*", "g:8443", "connect")


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (errors.MalformedPacket, errors.ProtocolError),
        (errors.BadChecksum, errors.ProtocolError),
        (errors.UnknownProtocol, errors.ProtocolError),
        (errors.NoLeader, errors.Unavailable),
        (errors.ConnectionLost, errors.Unavailable),
        (errors.DialFailed, errors.Unavailable),
        (errors.RemoteError, errors.RequestError),
    ],
)
def test_class_says_whose_fault_it_is(kind: type[Exception], base: type[Exception]) -> None:
    assert issubclass(kind, base)
    assert issubclass(base, errors.IsthmusError)
