"""Folders of runs that have nothing to do with each other are spread over the disk, where its file system takes that advice."""

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest

from countersign.adapters.apart import GET_FLAGS, SET_FLAGS, TOP_OF_UNRELATED, apart
from countersign.adapters.objects import Folder
from countersign.adapters.terraform.engine import TerraformEngine
from tests.integration.terraform_bench import KEY

NO_DUMP = 0x40  # `chattr +d`


def flags(folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return int(struct.unpack("l", fcntl.ioctl(fd, GET_FLAGS, struct.pack("l", 0)))[0])
    finally:
        os.close(fd)


def is_apart(folder: Path) -> bool:
    try:
        return bool(flags(folder) & TOP_OF_UNRELATED)
    except OSError:  # of a file system that has no such thing
        return False


def takes_advice(folder: Path) -> bool:
    """Whether the file system of `folder` does, as `chattr` would find out."""
    probe = folder / "probe"
    probe.mkdir()
    fd = os.open(probe, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, SET_FLAGS, struct.pack("l", flags(probe) | TOP_OF_UNRELATED))
    except OSError:
        return False
    finally:
        os.close(fd)
        probe.rmdir()
    return True


def test_a_folder_is_told_once_and_keeps_what_else_it_was_told(tmp_path: Path) -> None:
    advised = takes_advice(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    if advised:
        fcntl.ioctl(fd, SET_FLAGS, struct.pack("l", flags(tmp_path) | NO_DUMP))
    os.close(fd)

    for _ in range(2):
        apart(tmp_path)

        (tmp_path / "below").mkdir(exist_ok=True)
        if advised:
            assert flags(tmp_path) & (TOP_OF_UNRELATED | NO_DUMP) == TOP_OF_UNRELATED | NO_DUMP
            assert not is_apart(tmp_path / "below")


@pytest.mark.parametrize("refusal", [errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EROFS])
def test_a_file_system_that_takes_no_advice_does_as_it_always_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    def refused(*_: object) -> bytes:
        raise OSError(refusal, os.strerror(refusal))

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "ioctl", refused)
        apart(tmp_path)

    (tmp_path / "below").mkdir()


def test_workspaces_attempts_and_artifacts_of_stacks_lie_apart(tmp_path: Path) -> None:
    advised = takes_advice(tmp_path)
    TerraformEngine(
        stacks_root=tmp_path, work_root=tmp_path / "work", attempts_root=tmp_path / "attempts", mac_key=KEY, mac_kid="k1", search_path=""
    )
    artifacts = Folder(tmp_path / "artifacts")
    artifacts.put([("acme/st_1/art_1", b"sealed"), ("acme/st_2/art_1", b"sealed"), ("other/st_1/art_1", b"sealed")])

    spread = [tmp_path / "work" / "stacks", tmp_path / "attempts", tmp_path / "artifacts" / "acme", tmp_path / "artifacts" / "other"]
    assert [is_apart(folder) for folder in spread] == [advised] * len(spread)
    assert not is_apart(tmp_path / "artifacts" / "acme" / "st_1")
