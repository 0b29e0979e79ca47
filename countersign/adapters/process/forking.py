"""What a zygote does: it forks, and in what it forked, `serve` returns.

It talks by its standard input with whoever started it, and ends with that.
"""

import ctypes
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from countersign.adapters.libc import checked, libc

LONGEST = 128 << 10  # bytes of one request; an environment has some 2000
SETTLED = b"yes"  # the second answer; the first is the id of what is about to settle
PDEATHSIG = 1  # of prctl
OURS = __name__.partition(".")[0]
ARGUMENTS = slice(45, 47)  # in /proc/PID/stat, behind the name: where the words of the command line begin and end

_loaded: dict[str, tuple[int, int] | None] = {}


def serve() -> list[str]:
    """Fork for each request; in the child, return the words it is to carry on with. Ends when whoever asks is gone, and where a file of
    ours is no more what was loaded: after an upgrade a part would be half of the old version and half of the new.

    Nothing may have been opened or started that must not be shared. Raises RuntimeError where there are threads: a lock that one of
    them holds would be held for ever in a child.
    """
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208 - names are enough
        raise RuntimeError("a process with threads cannot be forked from")
    global _loaded
    _loaded = _files() | _loaded  # what this one has from the zygote it was forked from is as old as that
    gc.freeze()  # collecting would touch each of these, and what was touched is shared no more
    channel = socket.socket(fileno=0)
    while True:
        request, handles, _, _ = socket.recv_fds(channel, LONGEST, 2, socket.MSG_CMSG_CLOEXEC)
        if not request or _files() != _loaded:
            raise SystemExit(0)
        wanted = json.loads(request)
        settle = partial(_settle, wanted["argv"], wanted["env"], handles)
        if (pid := _grandchild(wanted["parent"], settle, lambda pid: channel.send(str(pid).encode()))) == 0:
            channel.detach()  # its number is that of our own standard input by now
            return list(wanted["argv"])
        for handle in handles:
            os.close(handle)
        channel.send(SETTLED if pid else b"no")


def _files() -> dict[str, tuple[int, int] | None]:
    """When the file of each of our modules was written, and its size; None where it is gone."""
    return {
        name: _version(file)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in (OURS, "__main__") and (file := getattr(module, "__file__", None))
    }


def _version(file: str) -> tuple[int, int] | None:
    try:
        now = os.stat(file)  # noqa: PTH116 - some hundred of them while a part waits
    except OSError:
        return None
    return now.st_mtime_ns, now.st_size


def _grandchild(parent: int, settle: Callable[[], None], announce: Callable[[int], object]) -> int | None:
    """0 in a new, settled process whose parent is `parent`, and which gets SIGTERM at that one's end. Here its id, or None where that
    cannot be had. It is announced before it does anything, so that nothing can run that its parent does not know.

    The process between the two ends at once, so the kernel hands the new one on to the nearest process above that takes orphans.
    It must not ask to be told of its parent's end before: it would hear of that one's.
    """
    told, tell = os.pipe()
    waits, go = os.pipe()
    if (between := os.fork()) == 0:
        if (pid := os.fork()) != 0:
            os.write(tell, str(pid).encode())
            os._exit(0)
        os.close(go)
        handed_on = os.read(waits, 1)
        control(PDEATHSIG, signal.SIGTERM)
        if not handed_on or os.getppid() != parent:
            os._exit(1)
        settle()
        os.write(tell, b"yes")
        for end in (told, tell, waits):
            os.close(end)
        return 0
    os.close(tell)
    os.close(waits)
    try:
        pid = int(os.read(told, 16))
        os.waitpid(between, 0)
        announce(pid)
        os.write(go, b"!")
        return pid if os.read(told, 16) == b"yes" else None
    finally:
        os.close(told)
        os.close(go)


def _settle(argv: Sequence[str], env: Mapping[str, str], handles: Sequence[int]) -> None:
    """Session, files, environment and name of a program that was just started."""
    os.setsid()
    stdin, log = handles
    for handle, number in ((stdin, 0), (log, 1), (log, 2)):
        os.dup2(handle, number)
    for handle in handles:
        if handle > 2:  # a zygote that was started without one of these got a handle in its place
            os.close(handle)
    os.environ.clear()
    os.environ.update(env)
    _name(argv)


def _name(argv: Sequence[str]) -> None:
    """Write the words of our command line over those of the zygote, for `ps` and whoever else looks; cut where there is no room.

    setproctitle would write one text; what looks for processes reads words.
    """
    begin, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[ARGUMENTS])
    words = b"".join(word.encode() + b"\0" for word in argv)[: end - begin - 1]
    if begin:
        ctypes.memmove(begin, words.ljust(end - begin, b"\0"), end - begin)


def control(option: int, value: int) -> None:
    """prctl. Raises OSError."""
    checked(libc().prctl(option, value, 0, 0, 0))
