"""Calling the fake cloud over HTTP: one connection a call, so that whoever dies leaves nothing half open."""

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlencode, urlsplit


class CloudError(Exception):
    """The cloud refused, or never answered."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    address: str
    marker: str = ""  # on whose behalf

    def create(self, *, type: str, project: str, name: str, attributes: dict[str, Any]) -> dict[str, Any]:
        return self._done("POST", "/objects", {"type": type, "project": project, "name": name, "attributes": attributes})

    def read(self, id: str) -> dict[str, Any] | None:
        status, told = self.call("GET", f"/objects/{quote(id, safe='')}")
        return None if status == 404 else _good(status, told)

    def update(self, id: str, attributes: dict[str, Any]) -> dict[str, Any]:
        return self._done("PUT", f"/objects/{quote(id, safe='')}", {"attributes": attributes})

    def delete(self, id: str) -> None:
        """Gone already is gone."""
        status, told = self.call("DELETE", f"/objects/{quote(id, safe='')}")
        if status != 404:
            _good(status, told)

    def lookup(self, *, type: str, project: str, name: str) -> list[dict[str, Any]]:
        return self._done("GET", "/objects?" + urlencode({"type": type, "project": project, "name": name}))

    def _done(self, method: str, path: str, body: object = None) -> Any:
        return _good(*self.call(method, path, body))

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """(status, JSON). Raises CloudError where nobody answers."""
        split = urlsplit(self.address)
        connection = HTTPConnection(split.hostname or "", split.port or 80, timeout=600)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"X-Marker": self.marker})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        except (OSError, HTTPException) as broken:
            raise CloudError(f"the fake cloud did not answer ({type(broken).__name__})") from None
        finally:
            connection.close()


def _good(status: int, told: Any) -> Any:
    if status >= 400:
        raise CloudError(f"{status}: {told.get('error') if isinstance(told, dict) else told}")
    return told
