"""The only place that starts processes, and the only one that ends them.

Three kinds, because three things may happen to whoever started them:

* `supervise`: reads the world (init, plan, show). It ends with us: one SIGINT, grace, then the whole group; one SIGINT where we are
  killed (`guardian`). What it says stays in memory (`output`).
* `Detached`: changes the world (apply). It never depends on us: own session, output in files, a lock that is held as long as
  any of it lives, an exit code in a file. Any process of this machine can follow it, and none has to.
* `start_service`: a long-lived part of this service, for `countersign up`. `Zygote.fork` makes the same of a process that has
  loaded what it needs.

Standard output of what we start is always a file: a pipe whose reader dies kills the writer in mid-apply.
"""

from countersign.adapters.process.detached import Detached, Hold, living_attempts
from countersign.adapters.process.forking import serve as serve_zygote
from countersign.adapters.process.lines import BATCH, Lines, tail_of
from countersign.adapters.process.machine import boot_id
from countersign.adapters.process.marked import MARKER, NOBODY, all_ended, end_marked, marked_processes, present
from countersign.adapters.process.services import Running, find_executable, start_service, stop_service
from countersign.adapters.process.supervised import OUTPUT_MAX, Ended, TooMuch, supervise
from countersign.adapters.process.zygote import Zygote

__all__ = [
    "BATCH",
    "MARKER",
    "NOBODY",
    "OUTPUT_MAX",
    "Detached",
    "Ended",
    "Hold",
    "Lines",
    "Running",
    "TooMuch",
    "Zygote",
    "all_ended",
    "boot_id",
    "end_marked",
    "find_executable",
    "living_attempts",
    "marked_processes",
    "present",
    "serve_zygote",
    "start_service",
    "stop_service",
    "supervise",
    "tail_of",
]
