"""Beside /mcp: health for machines, pages that tell nothing to who is not signed in, and the names this front answers to."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.settings import Settings
from countersign.core.errors import FailedPrecondition, Unavailable
from mcp_front.call import Front
from mcp_front.http import app, security
from mcp_front.tools import toolset

pytestmark = pytest.mark.anyio
RUN = "run_" + "0" * 26


class NoStore:
    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        raise Unavailable("the store is busy or does not answer; ask again in a moment")
        yield


def settings(**given: Any) -> Settings:
    return Settings(data=Path("/nowhere"), **given)


def front_of(**given: Any) -> Front:
    """A front of which only the door is there."""
    nothing: Any = None
    store: Any = NoStore()
    rest: dict[str, Any] = {"artifacts": nothing, "watch": nothing, "gateway": nothing}
    return Front(settings=settings(**given), store=store, toolset=toolset(), request_keys=(b"k" * 32,), **rest)


async def get(path: str, *, method: str = "GET", key: str | None = None, **given_settings: Any) -> tuple[int, dict[str, str], str]:
    """One request to the application, without a socket."""
    given = [(b"authorization", f"Bearer {key}".encode())] if key else []
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8700"), *given],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 8700),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    with contextlib.suppress(Unavailable):  # for the log; the answer was sent before
        await app(front_of(**given_settings))(scope, receive, send)
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:]).decode()


async def test_the_page_of_a_run_is_the_same_for_everybody_who_is_not_signed_in_whatever_run_it_is() -> None:
    other = "run_" + "1" * 26
    for run in (RUN, other):
        status, headers, body = await get(f"/runs/{run}")

        assert (status, headers["location"], body) == (303, f"/signin?to=%2Fruns%2F{run}", "")
        assert headers["cache-control"] == "no-store"


async def test_pages_load_nothing_but_from_here_and_are_shown_nowhere_else() -> None:
    status, headers, body = await get("/signin")

    assert status == 200
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    for inline in ("<style", " style=", "<script>", " onclick=", "javascript:"):
        assert inline not in body


@pytest.mark.parametrize("path", ["/runs/run_<script>", "/runs/..", "/runs/run_short", "/runs/"])
async def test_what_is_no_id_of_a_run_leads_nowhere(path: str) -> None:
    status, headers, body = await get(path)

    assert status in (401, 303, 307, 404)
    assert "<script>" not in body
    assert headers.get("location", "/signin?to=%2Fruns") in ("/signin?to=%2Fruns", "http://127.0.0.1:8700/runs")


async def test_a_form_that_does_not_come_from_a_page_of_ours_does_nothing() -> None:
    status, _, body = await get(f"/runs/{RUN}/approve", method="POST")

    assert status in (400, 403)
    assert "approved" not in body


@pytest.mark.parametrize("name", ["page.css", "page.js", "mark.svg"])
async def test_what_a_page_loads_is_served_from_here(name: str) -> None:
    status, headers, _ = await get(f"/static/{name}")

    assert (status, headers["x-content-type-options"]) == (200, "nosniff")
    assert (await get(f"/static/../{name}"))[0] in (401, 404)


async def test_a_process_that_lives_says_so() -> None:
    assert (await get("/healthz"))[::2] == (200, "ok\n")


async def test_without_a_key_there_is_nothing_behind_mcp() -> None:
    status, headers, body = await get("/mcp", method="POST")

    assert status == 401
    assert headers["www-authenticate"].startswith("Bearer ")
    assert "resource_metadata" not in headers["www-authenticate"]  # no authorization server stands behind our keys
    assert "tool" not in body


async def test_while_keys_cannot_be_looked_up_the_answer_is_to_come_back() -> None:
    status, headers, body = await get("/mcp", method="POST", key="cs_" + "0" * 16 + "_" + "0" * 64)

    assert (status, headers["retry-after"]) == (503, "5")
    assert body == "unavailable: the store is busy or does not answer; ask again in a moment\n"


def test_on_the_loopback_only_names_of_this_machine_are_answered() -> None:
    names = security(settings()).allowed_hosts

    assert names == ["127.0.0.1:*", "localhost:*", "[::1]:*"]


def test_a_named_address_is_answered_beside_the_loopback() -> None:
    assert security(settings(host="10.0.0.5")).allowed_hosts[0] == "10.0.0.5:*"
    assert security(settings(host="fd00::1")).allowed_origins[0] == "http://[fd00::1]:*"


def test_a_public_address_is_answered_as_well() -> None:
    names = security(settings(public_url="https://countersign.example.com"))

    assert "countersign.example.com" in names.allowed_hosts
    assert "https://countersign.example.com" in names.allowed_origins


def test_where_it_listens_on_every_address_only_the_key_counts() -> None:
    assert security(settings(host="0.0.0.0")).enable_dns_rebinding_protection is False


async def test_fixtures_of_conformance_tests_are_there_only_where_they_are_asked_for() -> None:
    assert (await get("/fixtures/mcp", method="POST"))[0] == 404


async def test_fixtures_are_no_way_around_a_key() -> None:
    assert (await get("/fixtures/mcp", method="POST", development_fixtures=True))[0] == 401


def test_fixtures_are_for_this_machine_only() -> None:
    with pytest.raises(FailedPrecondition, match="for this machine only"):
        app(front_of(development_fixtures=True, host="0.0.0.0"))
