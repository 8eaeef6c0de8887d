"""What a member of etcd needs before it can be our child."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from isthmus.engine.etcd_certificates import (
    MemberFiles,
    make_authority,
    make_key,
    make_request,
    needs_renewal,
    sign,
)
from isthmus.engine.etcd_process import (
    EtcdProcess,
    EtcdProcessConfig,
    version_problem,
)
from isthmus.errors import InvalidRequest
from isthmus.store.engine import EngineUnavailable

WALL = datetime(2026, 1, 2, tzinfo=UTC)


async def test_missing_program_says_what_to_install(tmp_path: Path) -> None:
    config = EtcdProcessConfig(
        binary="no-such-etcd",
        directory=tmp_path / "etcd",
        files=MemberFiles(tmp_path),
        name="a",
        peer_host="127.0.0.1",
    )
    with pytest.raises(EngineUnavailable, match=r"(?s)not installed.*etcd-server.*etcd\.binary"):
        await EtcdProcess(config, removed=lambda: None).check()


async def test_program_that_is_no_etcd_is_refused(tmp_path: Path) -> None:
    config = EtcdProcessConfig(
        binary="true",
        directory=tmp_path / "etcd",
        files=MemberFiles(tmp_path),
        name="a",
        peer_host="127.0.0.1",
    )
    with pytest.raises(EngineUnavailable, match="is no etcd"):
        await EtcdProcess(config, removed=lambda: None).check()


@pytest.mark.parametrize(
    ("version", "fit"),
    [
        ((3, 4, 21), False),
        ((3, 4, 23), True),
        ((3, 5, 0), False),
        ((3, 5, 5), False),
        ((3, 5, 6), True),
        ((3, 6, 1), True),
        ((4, 0, 0), False),
    ],
)
def test_releases_that_lose_data_are_refused(version: tuple[int, ...], fit: bool) -> None:
    assert (not version_problem(version)) is fit


def test_request_of_another_server_is_not_signed() -> None:
    authority, key = make_authority("storage", wall=WALL), make_key()
    request = make_request(key, name="a", addresses=["10.0.0.1"])
    with pytest.raises(InvalidRequest, match="not of the server"):
        sign(authority, request, name="b", wall=WALL)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        sign(authority, b"nonsense", name="a", wall=WALL)


def test_certificate_is_renewed_in_its_last_third_or_for_another_address() -> None:
    authority, key = make_authority("storage", wall=WALL), make_key()
    request = make_request(key, name="a", addresses=["10.0.0.1", "fd00::1"])
    certificate = sign(authority, request, name="a", wall=WALL)
    held = ["10.0.0.1", "fd00::1", "127.0.0.1"]
    assert not needs_renewal(certificate, addresses=held, wall=WALL)
    assert not needs_renewal(certificate, addresses=held, wall=WALL + timedelta(days=240))
    assert needs_renewal(certificate, addresses=held, wall=WALL + timedelta(days=250))
    assert needs_renewal(certificate, addresses=["10.0.0.2"], wall=WALL)
    assert needs_renewal(b"", addresses=held, wall=WALL)


def test_key_is_made_once_and_is_ours_alone(tmp_path: Path) -> None:
    files = MemberFiles(tmp_path / "storage")
    assert files.own_key() == files.own_key()
    assert files.key.stat().st_mode & 0o777 == 0o600
