"""The objects of the fake cloud, and the record of every change: what really happened, whatever a state says.

The record is one JSON object a line, in the order of `n`, written and synced before the change is answered. The objects are
what the record says: a cloud that was killed starts again with them.
"""

import json
import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Object = dict[str, Any]  # id, type, project, name, attributes, etag, marker, created_at


class World:
    """Thread-safe. Names are not unique unless `unique`: only so can a duplicate be made, and counted."""

    def __init__(self, record: Path, *, unique: bool = False) -> None:
        self._lock = threading.Lock()
        self._unique = unique
        self._number = 0
        self.objects: dict[str, Object] = {}
        self.record: list[dict[str, Any]] = []
        kept = _whole_lines(record)
        for line in kept.splitlines():
            self._take(json.loads(line))
        self._fd = os.open(record, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, len(kept))

    def create(self, *, type: str, project: str, name: str, attributes: Object, marker: str) -> Object:
        with self._lock:
            if self._unique and self._named(type, project, name):
                raise NameTaken(f"{type} {name} exists in {project} already")
            made = self._number + 1
            one = {"id": f"{type.removeprefix('fake_')}-{made:06d}", "type": type, "project": project, "name": name}
            one |= {"attributes": attributes, "etag": f"e{made}", "marker": marker, "created_at": datetime.now(UTC).isoformat()}
            return self._changed("create", one, marker)

    def update(self, id: str, attributes: Object, marker: str) -> Object:
        with self._lock:
            one = self.objects[id]
            return self._changed("update", {**one, "attributes": attributes, "etag": f"e{self._number + 1}"}, marker)

    def delete(self, id: str, marker: str) -> None:
        with self._lock:
            self._changed("delete", self.objects[id], marker)

    def named(self, type: str, project: str, name: str) -> list[Object]:
        with self._lock:
            return self._named(type, project, name)

    def _named(self, type: str, project: str, name: str) -> list[Object]:
        return [o for o in self.objects.values() if (o["type"], o["project"], o["name"]) == (type, project, name)]

    def _changed(self, op: str, one: Object, marker: str) -> Object:
        line = {"n": self._number + 1, "op": op, "by": marker, "object": one}
        os.write(self._fd, json.dumps(line).encode() + b"\n")
        os.fsync(self._fd)
        self._take(line)
        return one

    def _take(self, line: dict[str, Any]) -> None:
        self.record.append(line)
        self._number = line["n"]
        one = line["object"]
        if line["op"] == "delete":
            del self.objects[one["id"]]
        else:
            self.objects[one["id"]] = one


class NameTaken(Exception):
    pass


def read_record(path: Path) -> list[dict[str, Any]]:
    """Every change so far, also of a cloud that was killed: a torn last line was never answered, so it did not happen."""
    return [json.loads(line) for line in _whole_lines(path).splitlines()]


def live(record: Iterable[dict[str, Any]]) -> dict[str, Object]:
    """Id → object of what exists after the record."""
    found: dict[str, Object] = {}
    for line in record:
        one = line["object"]
        if line["op"] == "delete":
            found.pop(one["id"], None)
        else:
            found[one["id"]] = one
    return found


def _whole_lines(path: Path) -> bytes:
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]
