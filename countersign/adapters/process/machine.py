"""Which start of which machine this is."""

from functools import cache
from pathlib import Path

UNKNOWN_BOOT = "unknown"


@cache  # no process outlives its machine
def boot_id() -> str:
    """Changes with every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return UNKNOWN_BOOT
