"""What only reads the world is interrupted when we are gone, however that happens.

A shell of its own session waits for the end of a pipe that nobody but us holds. The kernel closes it with us, and then every process
that carries our mark and leads a session is told: what we started, and not what that started itself. A command that is about to
become its executable holds the pipe until it did, so none is missed.

`setpriv` would do the same before each command, and takes longer than many a command of git or helm.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from countersign.adapters.process.marked import carriers

ENDS_WITH = "COUNTERSIGN_ENDS_WITH"  # in the environment of what we start; it says nothing of us
_WAIT = """trap '' INT TERM HUP; read -r _; exec "$@" """
_TELL = f"import sys; from {__name__} import tell; tell(sys.argv[1])"  # only when we are gone: to wait takes no Python
_ROOT = Path(__file__).parents[3]  # what it imports
_guardian: "_Guardian | None" = None


@dataclass(frozen=True)
class _Guardian:
    owner: int  # process id
    mark: str
    process: "subprocess.Popen[bytes]"
    pipe: int  # it waits for its end


def ending_with_us(env: Mapping[str, str]) -> dict[str, str]:
    """`env` for a command in a session of its own that is to get SIGINT when we are gone. Raises OSError."""
    global _guardian
    if _guardian is None or _guardian.owner != os.getpid():
        _guardian = _started(mark=token_hex(16))
    elif _guardian.process.poll() is not None:  # somebody killed it
        os.close(_guardian.pipe)
        _guardian = _started(mark=_guardian.mark)
    return {**env, ENDS_WITH: _guardian.mark}


def _started(mark: str) -> _Guardian:
    waits, pipe = os.pipe()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WAIT, "sh", sys.executable, "-P", "-c", _TELL, mark],
            cwd="/",
            env={"PATH": os.defpath, "PYTHONPATH": str(_ROOT)},
            stdin=waits,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        os.close(pipe)
        raise
    finally:
        os.close(waits)
    return _Guardian(os.getpid(), mark, process, pipe)


def tell(mark: str) -> None:
    """Interrupt what carries this mark and leads a session."""
    for pid in carriers(ENDS_WITH, mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == pid:
                os.kill(pid, signal.SIGINT)
