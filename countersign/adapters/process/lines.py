"""Output in files, read while it grows: whole lines, in pieces, whatever is written."""

import os
from collections.abc import Iterator
from pathlib import Path

LINE_MAX = 16 << 20  # bytes; all outputs of a stack come in one line. Longer ones are dropped, never collected
CHUNK = 1 << 16
BATCH = 1 << 20  # bytes read before the reader gets to do something else: a heartbeat is due every few seconds
ERRORS_KEPT = 64 << 10  # bytes of standard error, the last ones


class Lines:
    """Reads the whole lines of a growing file, as far as it has grown."""

    def __init__(self, file: Path | int, *, longest: int = LINE_MAX) -> None:
        """`file` may not be there yet. A descriptor stays its owner's, and so does where others read or write by it."""
        self.dropped = 0
        self._path = file if isinstance(file, Path) else None
        self._fd = file if isinstance(file, int) else None
        self._at = 0
        self._tail: list[bytes] = []
        self._size = 0
        self._longest = longest
        self._skip = False

    def batches(self) -> Iterator[list[bytes]]:
        """All that is new, in pieces of about BATCH bytes; ends where the file ends for now."""
        if self._fd is None:
            if self._path is None:
                return
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
        out: list[bytes] = []
        size = 0
        while data := os.pread(self._fd, CHUNK, self._at):
            self._at += len(data)
            out += self._whole_lines(data)
            size += len(data)
            if size >= BATCH:
                yield out
                out, size = [], 0
        if out:
            yield out

    def new(self) -> list[bytes]:
        """All that is new at once: for files that are known to be small."""
        return [line for batch in self.batches() for line in batch]

    def _whole_lines(self, data: bytes) -> Iterator[bytes]:
        rest, *others = data.split(b"\n")
        if others:
            if not self._skip and (complete := b"".join((*self._tail, rest))):
                yield complete
            self._tail, self._size, self._skip = [], 0, False
            *whole, rest = others
            yield from filter(None, whole)
        if rest and not self._skip:
            self._tail.append(rest)
            self._size += len(rest)
            if self._size > self._longest:
                self._tail, self._size, self._skip = [], 0, True
                self.dropped += 1

    @property
    def whole(self) -> bool:
        """Whether the file ended with a line end when it was last read."""
        return self._fd is not None and not self._tail and not self._skip

    def close(self) -> None:
        if self._fd is not None and self._path is not None:
            os.close(self._fd)
        self._fd = None


def tail_of(path: Path, limit: int = ERRORS_KEPT) -> str:
    """The last `limit` bytes of a file as text; nothing where it does not exist."""
    try:
        if not path.stat().st_size:
            return ""  # nearly always
        with path.open("rb") as file:
            return tail(file.fileno(), limit)
    except FileNotFoundError:
        return ""


def tail(fd: int, limit: int = ERRORS_KEPT) -> str:
    """The same of an open one."""
    size = os.fstat(fd).st_size
    return os.pread(fd, min(size, limit), max(0, size - limit)).decode(errors="replace")
