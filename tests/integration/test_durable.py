"""What is synced together, on a disk that is quick and on one that takes its time."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters import durable

SLOW = 0.003  # seconds for one turn of such a disk


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[int]]:
    """Six descriptors: five files and their folder."""
    them = [os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600) for name in "abcde"]
    them.append(os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC))
    yield them
    for fd in them:
        os.close(fd)


@contextmanager
def disk(
    monkeypatch: pytest.MonkeyPatch, *turns: float, broken: Callable[[int], bool] = lambda _: False, quick: bool = False
) -> Iterator[list[int]]:
    """One whose turns take so long, the last of them for ever; what was synced."""
    synced: list[int] = []
    left = list(turns)

    def fsync(fd: int) -> None:
        time.sleep(left.pop(0) if len(left) > 1 else left[0])
        if broken(fd):
            raise OSError(5, "Input/output error")
        synced.append(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        patched.setattr(durable, "_disk", durable.Disk(quick=quick))
        yield synced


@pytest.mark.parametrize("turns", [(0.0,), (SLOW,), (0.0, 0.0, SLOW, 0.0), (SLOW, 0.0)], ids=str)
def test_everything_is_synced_once_however_quick_the_disk_is(
    monkeypatch: pytest.MonkeyPatch, opened: list[int], turns: tuple[float, ...]
) -> None:
    with disk(monkeypatch, *turns) as synced:
        for _ in range(3):
            durable.on_disk_together(opened)

            assert sorted(synced) == sorted(opened)
            synced.clear()


@pytest.mark.parametrize("turns", [(0.0,), (SLOW,)], ids=str)
@pytest.mark.parametrize("which", [0, 3, 5])
def test_what_a_disk_refuses_is_told_however_quick_it_is(
    monkeypatch: pytest.MonkeyPatch, opened: list[int], turns: tuple[float, ...], which: int
) -> None:
    for quick in (False, True):
        with (
            disk(monkeypatch, *turns, broken=lambda fd: fd == opened[which], quick=quick),
            pytest.raises(OSError, match="Input/output error"),
        ):
            durable.on_disk_together(opened)


def test_a_disk_that_takes_its_time_to_refuse_is_not_quick(monkeypatch: pytest.MonkeyPatch, opened: list[int]) -> None:
    with disk(monkeypatch, SLOW, broken=lambda _: True, quick=True):
        with pytest.raises(OSError, match="Input/output error"):
            durable.on_disk_together(opened)
        assert not durable._disk.quick


def test_a_quick_disk_wakes_no_thread_and_a_slow_one_takes_as_long_as_one_turn(monkeypatch: pytest.MonkeyPatch, opened: list[int]) -> None:
    woken: list[int] = []
    submit = ThreadPoolExecutor.submit

    def noted(pool: ThreadPoolExecutor, work: Callable[[int], None], fd: int) -> Any:
        woken.append(fd)
        return submit(pool, work, fd)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", noted)
    with disk(monkeypatch, 0.0):
        monkeypatch.setattr(durable, "QUICK", 60.0)  # whatever else this machine does
        durable.on_disk_together(opened)  # nobody knows yet
        woken.clear()
        durable.on_disk_together(opened)
    assert woken == []

    with disk(monkeypatch, SLOW):
        monkeypatch.setattr(durable, "QUICK", 0.0)
        durable.on_disk_together(opened)
    assert len(woken) == len(opened) - 1
