"""What this machine, or the container around us, has to give: cores and memory decide how many engines run at once."""

import math
import os
from pathlib import Path

PER_ENGINE = 700 << 20  # bytes; a plan with a large provider takes that much (measured: 580 to 600 MiB)
CGROUP = Path("/sys/fs/cgroup")


def engine_slots(*, cores: float | None = None, memory: int | None = None) -> int:
    """Engines at once: twice the cores, for a good part of a plan is waiting for a cloud, and no more than fit into memory."""
    cores = usable_cores() if cores is None else cores
    memory = usable_memory() if memory is None else memory
    return max(1, min(math.ceil(2 * cores), memory // PER_ENGINE))


def usable_cores(cgroup: Path = CGROUP) -> float:
    """Cores this process may use: those it may be scheduled on, or less where a container caps its time."""
    scheduled = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    quota, _, period = _told(cgroup / "cpu.max").partition(" ")
    return min(scheduled, int(quota) / int(period)) if quota.isdigit() and period.isdigit() and int(period) else scheduled


def usable_memory(cgroup: Path = CGROUP) -> int:
    """Bytes of memory in all, or what a container may take of them."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _told(cgroup / "memory.max")
    return min(physical, int(limit)) if limit.isdigit() else physical


def _told(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
