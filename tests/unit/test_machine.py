"""How many engines run at once on a machine."""

import os
from pathlib import Path

import pytest

from countersign.adapters.machine import engine_slots, usable_cores, usable_memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("cores", "memory", "slots"),
    [
        (2, 24 * GIB, 4),
        (8, 64 * GIB, 16),
        (8, 4 * GIB, 5),  # memory is short
        (2, GIB // 2, 1),  # too little for one, and yet one has to run
        (0.5, 8 * GIB, 1),
        (1.5, 8 * GIB, 3),
    ],
)
def test_engines_at_once_follow_cores_and_memory(cores: float, memory: int, slots: int) -> None:
    assert engine_slots(cores=cores, memory=memory) == slots


def test_a_container_caps_both(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{GIB}\n")

    assert (usable_cores(tmp_path), usable_memory(tmp_path)) == (0.5, GIB)


@pytest.mark.parametrize("said", ["max 100000", "", "nonsense", "100 0"])
def test_without_a_cap_all_there_is_counts(tmp_path: Path, said: str) -> None:
    (tmp_path / "cpu.max").write_text(said)
    (tmp_path / "memory.max").write_text("max\n")

    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    assert usable_memory(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
