"""What a member of etcd needs before it can be our child."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from isthmus.engine.etcd_access import MemberFiles
from isthmus.engine.etcd_certificates import (
    make_authority,
    make_key,
    make_request,
    needs_renewal,
    own_key,
    sign,
)
from isthmus.engine.etcd_process import (
    EtcdProcess,
    EtcdProcessConfig,
    Formation,
    version_problem,
)
from isthmus.errors import InvalidRequest
from isthmus.store.engine import EngineUnavailable
from support.etcd import fake_etcd

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
        await EtcdProcess(config).check()


async def test_program_that_is_no_etcd_is_refused(tmp_path: Path) -> None:
    config = EtcdProcessConfig(
        binary="true",
        directory=tmp_path / "etcd",
        files=MemberFiles(tmp_path),
        name="a",
        peer_host="127.0.0.1",
    )
    with pytest.raises(EngineUnavailable, match="is no etcd"):
        await EtcdProcess(config).check()


async def test_file_that_is_no_program_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "etcd-3.5").write_text("")
    config = EtcdProcessConfig(
        binary=str(tmp_path / "etcd-3.5"),
        directory=tmp_path / "etcd",
        files=MemberFiles(tmp_path),
        name="a",
        peer_host="127.0.0.1",
    )
    with pytest.raises(EngineUnavailable, match=r"no program that may be executed.*etcd\.binary"):
        await EtcdProcess(config).check()


@pytest.mark.parametrize(
    ("version", "flag"),
    [
        ("3.4.23", "--experimental-peer-skip-client-san-verification"),
        ("3.6.1", "--peer-skip-client-san-verification"),
    ],
)
async def test_members_may_dial_from_any_address(tmp_path: Path, version: str, flag: str) -> None:
    config = EtcdProcessConfig(
        binary=str(fake_etcd(tmp_path, version)),
        directory=tmp_path / "etcd",
        files=MemberFiles(tmp_path),
        name="a",
        peer_host="10.0.0.1",
    )
    process = EtcdProcess(config)
    await process.check()
    assert flag in process.command(Formation(members={"a": "u"}, token="t", new=True))


@pytest.mark.parametrize(("folder", "fits"), [("etcd", True), ("e" * 100, False)])
async def test_member_is_asked_through_a_socket_where_its_path_fits(
    folder: str, fits: bool
) -> None:
    config = EtcdProcessConfig(
        binary="/bin/true",
        directory=Path("/data") / folder,
        files=MemberFiles(Path("/data")),
        name="a",
        peer_host="127.0.0.1",
        client_port=1234,
    )
    command = EtcdProcess(config).command(Formation(members={"a": "u"}, token="t", new=True))
    (listen,) = [word for word in command if word.startswith("--listen-client-urls=")]
    assert listen.partition("=")[2].split(",")[0] == "https://127.0.0.1:1234"
    assert ("unix://client:1" in listen) is fits
    assert config.access.endpoints == (
        (f"unix:/data/{folder}/client:1",) if fits else ("127.0.0.1:1234",)
    )
    assert (config.access.ca_file is None) is fits
    assert config.network_access.ca_file == config.files.ca


@pytest.mark.parametrize("members", [1, 3])
async def test_member_that_is_alone_may_use_all_processors(
    tmp_path: Path, members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EtcdProcessConfig(
        directory=tmp_path, files=MemberFiles(tmp_path), name="a", peer_host="127.0.0.1"
    )
    formation = Formation(members={str(n): "u" for n in range(members)}, token="t", new=True)
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert EtcdProcess(config).environment(formation)["GOMAXPROCS"] == (
        "4" if members == 1 else "2"
    )
    monkeypatch.setenv("GOMAXPROCS", "3")
    assert EtcdProcess(config).environment(formation)["GOMAXPROCS"] == "3"


async def test_member_whose_process_id_cannot_be_noted_is_looked_after_all_the_same(
    tmp_path: Path,
) -> None:
    """As on a full disk: it has to be started again when it ends, or nobody ever will."""
    starts = tmp_path / "starts"
    config = EtcdProcessConfig(
        binary=str(fake_etcd(tmp_path, "3.4.23", f"echo start >> {starts}")),
        directory=tmp_path / "etcd",
        files=MemberFiles(tmp_path),
        name="a",
        peer_host="127.0.0.1",
    )
    (tmp_path / "etcd.pid").mkdir()  # It cannot be written.
    process = EtcdProcess(config)
    await process.start(Formation(members={"a": "u"}, token="t", new=True))
    try:
        async with asyncio.timeout(20):
            while not starts.exists() or starts.read_text().count("start") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        (tmp_path / "etcd.pid").rmdir()
        await process.stop()


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
    assert own_key(files) == own_key(files)
    assert files.key.stat().st_mode & 0o777 == 0o600
