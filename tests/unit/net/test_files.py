"""Files on the disk: whole or not at all, for our user alone."""

import stat
from pathlib import Path

import pytest

from isthmus.net.files import LocalFiles


@pytest.fixture
def files() -> LocalFiles:
    return LocalFiles()


async def test_file_that_is_not_there_reads_as_none(files: LocalFiles, tmp_path: Path) -> None:
    assert await files.read(tmp_path / "none", size_max=10) is None


async def test_file_is_replaced_whole_for_our_user_alone(files: LocalFiles, tmp_path: Path) -> None:
    path = tmp_path / "serf" / "local.keyring"
    await files.replace(path, b"first")
    path.chmod(0o644)
    (tmp_path / "serf" / "local.keyring.new").write_bytes(b"left over")
    await files.replace(path, b"second")
    assert await files.read(path, size_max=6) == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["local.keyring"]


async def test_failed_replacement_leaves_what_was_there(files: LocalFiles, tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "inside").touch()
    with pytest.raises(OSError, match="directory"):
        await files.replace(folder, b"x")
    assert await files.read(folder / "inside", size_max=1) == b""
    assert await files.read(tmp_path / "taken.new", size_max=1) is None


async def test_appended_file_grows(files: LocalFiles, tmp_path: Path) -> None:
    path = tmp_path / "serf" / "local.snapshot"
    await files.append(path, b"clock: 1\n")
    await files.append(path, b"clock: 2\n")
    assert path.read_bytes() == b"clock: 1\nclock: 2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_file_that_is_too_long_is_not_read(files: LocalFiles, tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(bytes(11))
    with pytest.raises(OSError, match="longer than 10 bytes"):
        await files.read(path, size_max=10)
