"""The door under people who lean on it: slow, silent, gone, too deep, too large, too many; and everybody else served meanwhile."""

import asyncio
import contextlib
import gc
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from countersign.adapters.serving import Server
from countersign.adapters.settings import LimitSettings, Settings
from countersign.core.principal import Kind, Principal
from mcp_front import door, main
from mcp_front.door import Patience
from tests.integration.front import ANA, CLAUDE, FrontService, front_service
from tests.integration.test_front import call, connected, served
from tests.requirements import requirement
from tests.service import eventually

pytestmark = pytest.mark.anyio
PATIENT = 120.0  # seconds a request may take on a machine that does other things as well
LIST = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/list",
    "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}},
}
MODERN = {"MCP-Protocol-Version": "2026-07-28", "Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


@contextlib.asynccontextmanager
async def front(tmp_path: Path, **limits: Any) -> AsyncIterator[tuple[FrontService, str]]:
    async with front_service(tmp_path, limits=LimitSettings(**limits)) as it:
        it.engine.want(("a", "create"))
        await it.stack()
        async with served(it) as url:
            yield it, url


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[tuple[FrontService, str]]:
    async with front(tmp_path) as both:
        yield both


class Raw:
    """A connection by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self, within: float = 10.0) -> bytes:
        """What is said until the front ends the connection, which it may do while more is sent to it."""
        said = b""
        async with asyncio.timeout(within):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(1 << 16):
                    said += piece
        return said


@contextlib.asynccontextmanager
async def raw(url: str, **options: Any) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]), **options)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


def post(token: str, body: bytes, *, length: int | None = None, **more: str) -> bytes:
    headers = {**MODERN, "Host": "127.0.0.1:1", "Authorization": f"Bearer {token}", "Mcp-Method": "tools/list", **more}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /mcp HTTP/1.1\r\n{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


async def answers(url: str, token: str) -> int:
    """How many tools somebody else sees, asked as usual."""
    async with httpx2.AsyncClient(timeout=PATIENT) as http:
        headers = {**MODERN, "Authorization": f"Bearer {token}", "Mcp-Method": "tools/list"}
        response = await http.post(f"{url}/mcp", json=LIST, headers=headers)
    assert response.status_code == 200, response.text
    return len(response.json()["result"]["tools"])


def connections() -> int:
    """Connections the front still has."""
    gc.collect()
    return sum(isinstance(o, Patience) and o in o.connections for o in gc.get_objects() if type(o) is Patience)


# -- slow clients ---------------------------------------------------------------------------------------------------------

BEGINNINGS = {
    "nothing at all": b"",
    "half a head": b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    "half a body": post("cs_nobody", b'{"jsonrpc"', length=500),
}


@requirement("door:patience")
@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
async def test_who_does_not_go_on_is_left(it: tuple[FrontService, str], monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    service, url = it
    monkeypatch.setattr(door, "HEAD_WITHIN", 0.3)
    monkeypatch.setattr(door, "BODY_WITHIN", 0.3)
    async with raw(url) as slow:
        await slow.send(beginning)
        said = await slow.rest()

    # Without a key the answer is there before the body is; what follows is cut off.
    assert statuses(said) == [b"401" if b"jsonrpc" in beginning else b"408"]
    assert await answers(url, await service.key(ANA, "viewer")) > 5


@requirement("door:patience")
@pytest.mark.parametrize("phase", ["head", "body", "next head", "between"])
async def test_a_byte_now_and_then_is_not_going_on(it: tuple[FrontService, str], monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    service, url = it
    monkeypatch.setattr(door, "HEAD_WITHIN", 0.4)
    monkeypatch.setattr(door, "BODY_WITHIN", 0.4)
    token = await service.key(ANA, "viewer")
    beginning = {
        "head": b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        "body": post(token, b'{"jsonrpc": "', length=5000),
        "next head": post(token, json.dumps(LIST).encode()),
        "between": post(token, json.dumps(LIST).encode()),
    }[phase]
    dripped = b"\r\n" if phase == "between" else b"x"
    async with raw(url) as slow:
        await slow.send(beginning)
        if phase in ("next head", "between"):
            assert (await slow.reader.readline()).split()[1] == b"200"
        if phase == "next head":
            await slow.send(b"POST /mcp HTTP/1.1\r\nX-Slow: ")

        async def drip() -> None:
            while True:
                await slow.send(dripped)
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        said = await slow.rest(5)
        dripping.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await dripping

    assert statuses(said) == ([] if phase == "between" else [b"408"])  # nothing was begun there that could be answered


@requirement("door:patience")
async def test_the_next_request_has_its_time_only_when_the_one_before_it_is_answered(
    it: tuple[FrontService, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, url = it
    monkeypatch.setattr(door, "HEAD_WITHIN", 0.3)
    token = await service.key(CLAUDE, "platform")
    service.temporal.go_on.clear()
    waiting = {"Mcp-Method": "tools/call", "Mcp-Name": "apply_terraform"}
    async with raw(url) as eager:
        await eager.send(post(token, call_of("apply_terraform", env="dev", wait_seconds=1), **waiting) + b"POST /mcp HTTP/1.1\r\nX: ")
        said = await eager.rest()

    assert statuses(said) == [b"200", b"408"]
    service.temporal.go_on.set()


@requirement("door:bounds")
@pytest.mark.parametrize("head", [b"GET /" + b"x" * 700_000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 120_000], ids=["an address", "headers"])
async def test_a_head_too_large_is_not_listened_to_for_ever(it: tuple[FrontService, str], head: bytes) -> None:
    service, url = it
    async with raw(url) as long:
        with contextlib.suppress(ConnectionError):
            await long.send(head)
        said = await long.rest(5)

    assert said == b"" or said.startswith(b"HTTP/1.1 400 ")  # whoever still sends may not hear what is said
    assert await answers(url, await service.key(ANA, "viewer")) > 5


@requirement("door:patience")
async def test_who_does_not_read_is_cut_off_and_what_waits_for_them_is_dropped(
    it: tuple[FrontService, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, url = it
    monkeypatch.setattr(door, "READ_WITHIN", 0.3)
    token = await service.key(CLAUDE, "platform")
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.setblocking(False)
    await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", int(url.rsplit(":", 1)[1])))
    try:
        request = post(token, json.dumps(LIST).encode())

        async def asking() -> None:
            while True:  # one answer after the other, none of them read
                await asyncio.get_running_loop().sock_sendall(small, request)
                await asyncio.sleep(0)

        with pytest.raises(ConnectionError):
            async with asyncio.timeout(60):
                await asking()
    finally:
        small.close()

    async def gone() -> bool:
        return connections() == 0

    await eventually(gone, "the connection to be dropped")
    assert await answers(url, token) > 5


async def test_a_request_that_comes_in_pieces_is_answered_as_a_whole_one(it: tuple[FrontService, str]) -> None:
    service, url = it
    whole = post(await service.key(ANA, "viewer"), json.dumps(LIST).encode(), Connection="close")
    async with raw(url) as patient:
        for at in range(0, len(whole), 40):
            await patient.send(whole[at : at + 40])
            await asyncio.sleep(0)
        said = await patient.rest()

    assert said.startswith(b"HTTP/1.1 200 ")
    assert b'"whoami"' in said


async def test_white_space_around_the_value_of_a_header_is_no_part_of_it(it: tuple[FrontService, str]) -> None:
    service, url = it
    padded = {"Connection": "close", "Mcp-Method": " \ttools/list \t "}
    async with raw(url) as client:
        await client.send(post(await service.key(ANA, "viewer"), json.dumps(LIST).encode(), **padded))
        said = await client.rest()

    assert said.startswith(b"HTTP/1.1 200 ")


@requirement("door:bounds")
@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        (b" HTTP/1.1", b"", b"400"),
        (b" HTTP/1.1", b"Host: 127.0.0.1\r\nHost: example.com\r\n", b"400"),
        (b" HTTP/1.0", b"", b"200"),
        (b" HTTP/1.0", b"Host: 127.0.0.1\r\n", b"200"),
        (b" HTTP/1.0", b"Host: 127.0.0.1\r\nHost: example.com\r\n", b"400"),
        (b" HTTP/2.0", b"Host: 127.0.0.1\r\n", b"400"),
        (b" HTTP/0.9", b"Host: 127.0.0.1\r\n", b"400"),
        (b"", b"Host: 127.0.0.1\r\n", b"400"),
    ],
)
async def test_a_request_names_a_version_that_is_spoken_here_and_one_host(
    it: tuple[FrontService, str], version: bytes, hosts: bytes, status: bytes
) -> None:
    _, url = it
    async with raw(url) as client:
        await client.send(b"GET /healthz" + version + b"\r\n" + hosts + b"Connection: close\r\n\r\n")
        said = await client.rest()

    assert statuses(said) == [status]


# -- disconnects ----------------------------------------------------------------------------------------------------------


@requirement("door:disconnects")
async def test_clients_that_go_in_any_phase_leave_nothing_behind(it: tuple[FrontService, str]) -> None:
    service, url = it
    service.temporal.go_on.clear()  # planning waits: answers are under way for long
    token = await service.key(CLAUDE, "platform")
    waiting = call_of("apply_terraform", env="dev", wait_seconds=20)
    phases = [
        b"",
        b"POST /mcp HT",
        post(token, b"")[:-2],
        post(token, b'{"jsonrpc"', length=500),
        post(token, json.dumps(LIST).encode()),
        post(token, waiting, **{"Mcp-Method": "tools/call", "Mcp-Name": "apply_terraform"}),
        b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + token.encode() + b"\r\nAccept: text/event-stream\r\n\r\n",
    ]

    async def begun() -> bool:
        return bool(service.temporal.starts)

    async def go(beginning: bytes, abort: bool) -> None:
        async with raw(url) as client:
            await client.send(beginning)
            if waiting in beginning:  # who goes at once has not asked
                await eventually(begun, "the run to be begun", PATIENT)
            await asyncio.sleep(0.05)
            if abort:
                client.writer.transport.abort()

    await asyncio.gather(*(go(phase, abort) for phase in phases for abort in (False, True) for _ in range(5)))

    async def gone() -> bool:
        return connections() == 0

    await eventually(gone, "the front to forget the connections")
    assert await answers(url, token) > 5
    service.temporal.go_on.set()
    async with connected(url, token) as agent:
        (run,) = (await call(agent, "run_list"))["data"]["runs"]  # asked ten times, and one run
        waited = await call(agent, "run_wait", run_id=run["run_id"], until="decision", timeout_seconds=20)
    assert waited["run"]["state"] == "awaiting_approval"  # who asked is gone, and it goes on


def call_of(name: str, **arguments: Any) -> bytes:
    return json.dumps({**LIST, "method": "tools/call", "params": {**LIST["params"], "name": name, "arguments": arguments}}).encode()  # type: ignore[dict-item]


# -- too much -------------------------------------------------------------------------------------------------------------


@requirement("door:bounds")
async def test_a_body_too_large_is_refused_before_it_is_read_whether_it_says_so_or_not(tmp_path: Path) -> None:
    async with front(tmp_path, body_bytes=2048) as (service, url):
        token = await service.key(ANA, "viewer")
        async with raw(url) as honest:
            await honest.send(post(token, b"{", length=1 << 40))
            assert (await honest.reader.readline()).split()[1] == b"413"
        async with raw(url) as chunked:
            head = post(token, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            await chunked.send(head + b"".join(b"400\r\n" + b"x" * 0x400 + b"\r\n" for _ in range(4)))
            assert (await chunked.reader.readline()).split()[1] == b"413"
        assert await answers(url, token) > 5


@requirement("door:bounds")
@pytest.mark.parametrize("deep", [65, 5000, 100_000])
async def test_a_document_too_deep_is_refused_and_said_so(it: tuple[FrontService, str], deep: int) -> None:
    service, url = it
    token = await service.key(CLAUDE, "platform")
    nested = call_of("terraform_plan", env="dev", vars={"v": 1}).replace(b'"v": 1', b'"v": ' + b"[" * deep + b"]" * deep)
    headers = {**MODERN, "Authorization": f"Bearer {token}", "Mcp-Method": "tools/call", "Mcp-Name": "terraform_plan"}
    async with httpx2.AsyncClient(timeout=PATIENT) as http:
        refused = await http.post(f"{url}/mcp", content=nested, headers=headers)

    assert refused.status_code == 400
    assert "nest deeper than 64" in refused.json()["error"]["message"]
    assert await answers(url, token) > 5


async def test_what_is_deep_only_within_texts_is_not_deep(it: tuple[FrontService, str]) -> None:
    service, url = it
    async with connected(url, await service.key(CLAUDE, "platform")) as agent:
        answer = await call(agent, "search_tools", text="[" * 90 + "{" * 90 + ' \\" apply')

    assert answer["data"]["tools"][0]["name"] == "apply_terraform"


@requirement("door:bounds")
async def test_a_text_of_quotes_that_never_ends_keeps_nobody_waiting(it: tuple[FrontService, str]) -> None:
    service, url = it
    token = await service.key(CLAUDE, "viewer")
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": ' + b"[]" * 70 + b'"' + b'\\"' * 400_000
    headers = {**MODERN, "Authorization": f"Bearer {token}", "Mcp-Method": "tools/list"}
    async with httpx2.AsyncClient(timeout=PATIENT) as http:
        before = time.process_time()
        refused = await http.post(f"{url}/mcp", content=body, headers=headers)
        took = time.process_time() - before

    assert refused.status_code == 400
    assert took < 5, "a search for each of the quotes would take hours"
    assert await answers(url, token) > 5


@requirement("door:bounds")
async def test_one_principal_has_so_many_requests_at_once_and_another_is_served_meanwhile(tmp_path: Path) -> None:
    async with front(tmp_path, requests_at_once=2) as (service, url):
        service.temporal.go_on.clear()
        token, other = await service.key(CLAUDE, "platform"), await service.key(ANA, "viewer")
        headers = {**MODERN, "Authorization": f"Bearer {token}", "Mcp-Method": "tools/call", "Mcp-Name": "apply_terraform"}
        async with httpx2.AsyncClient(timeout=PATIENT, headers=headers) as http:
            waiting = call_of("apply_terraform", env="dev", wait_seconds=20)
            asked = [asyncio.create_task(http.post(f"{url}/mcp", content=waiting)) for _ in range(3)]
            done, held = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            refused = done.pop().result()
            assert (refused.status_code, len(held)) == (429, 2)
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["message"].startswith("rate_limited: ")
            assert await answers(url, other) > 5
            service.temporal.go_on.set()
            assert [(await one).status_code for one in held] == [200, 200]
        assert await answers(url, token) > 5


@requirement("door:bounds")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_who_asks_faster_than_their_rate_is_told_how_long_to_wait(tmp_path: Path, mode: str) -> None:
    async with front(tmp_path, requests_per_minute=20) as (service, url):
        async with connected(url, await service.key(CLAUDE, "platform"), mode=mode) as agent:
            said = [(await agent.call_tool("whoami", {})).structured_content or {} for _ in range(21)]
            with pytest.raises(MCPError) as refused:
                await agent.list_tools()

        error = said[-1]["error"]
        assert (error["code"], error["retryable"]) == ("rate_limited", True)
        assert 0 < error["retry_after_seconds"] <= 30
        assert refused.value.error.code == -32010
        assert refused.value.error.data["code"] == "rate_limited"
        assert await answers(url, await service.key(ANA, "viewer")) > 5


@requirement("door:bounds")
async def test_more_connections_than_there_is_room_for_are_told_to_come_again(tmp_path: Path) -> None:
    async with front(tmp_path, connections=5) as (service, url), contextlib.AsyncExitStack() as idle:
        token = await service.key(ANA, "viewer")
        for _ in range(5):
            await idle.enter_async_context(raw(url))
        async with raw(url) as late:
            await late.send(post(token, json.dumps(LIST).encode()))
            assert (await late.reader.readline()).split()[1] == b"503"
        await idle.aclose()

        async def room() -> bool:
            return connections() == 0

        await eventually(room, "the connections to be forgotten")
        assert await answers(url, token) > 5


# -- one answer to each request -------------------------------------------------------------------------------------------

H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
LAST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
NO_HOST = b"GET /healthz HTTP/1.1\r\n\r\n"


def statuses(said: bytes) -> list[bytes]:
    return [answer.split()[0] for answer in said.split(b"HTTP/1.1 ")[1:]]


async def test_a_socket_that_wants_to_be_a_web_socket_stays_a_request(it: tuple[FrontService, str]) -> None:
    service, url = it
    async with raw(url) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
        assert (await client.reader.readline()).split()[1] == b"200"
    assert await answers(url, await service.key(ANA, "viewer")) > 5


@requirement("door:one-answer")
async def test_clients_that_ask_for_another_protocol_in_passing_are_served_in_this_one(it: tuple[FrontService, str]) -> None:
    service, url = it
    body = json.dumps(LIST).encode()
    asking = post(await service.key(ANA, "viewer"), body, **H2C)
    chunked = asking.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked").replace(
        body, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    )
    async with raw(url) as client:
        await client.send(asking + chunked + asking + LAST)
        said = await client.rest()

    assert statuses(said) == [b"200", b"200", b"200", b"200"]
    assert said.count(b'"whoami"') == 3


@requirement("door:one-answer")
async def test_the_body_of_who_asks_for_another_protocol_is_no_request(it: tuple[FrontService, str]) -> None:
    service, url = it
    hidden = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    async with raw(url) as client:
        await client.send(post(await service.key(ANA, "viewer"), b"", length=len(hidden), **H2C, Expect="100-continue"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"  # the head is heard, and the body comes alone
        await client.send(hidden + LAST)
        said = await client.rest()

    assert statuses(said) == [b"400", b"200"]  # no JSON, and the last one


@requirement("door:one-answer")
async def test_who_wants_a_tunnel_is_refused(it: tuple[FrontService, str]) -> None:
    _, url = it
    async with raw(url) as client:
        await client.send(b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + LAST)
        said = await client.rest()

    assert statuses(said) == [b"400"]


@contextlib.asynccontextmanager
async def behind(tmp_path: Path, endpoint: Callable[[Request], Awaitable[Response]]) -> AsyncIterator[str]:
    """An application of the test's own behind the door."""
    settings = Settings(data=tmp_path).model_copy(update={"front_port": 0})
    application = Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])])
    with contextlib.closing(main.listening(settings)) as at:
        server = Server(main.served(settings, application))
        serving = asyncio.create_task(server.serve(sockets=[at]))
        try:
            yield f"http://127.0.0.1:{at.getsockname()[1]}"
        finally:
            server.stop()
            await serving


async def gone(request: Request) -> None:
    """Until the client is."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def refused(_: Request) -> Response:
    """Before there is a body."""
    return Response(status_code=401)


ASK = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
EARLY = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@requirement("door:disconnects")
async def test_who_goes_with_a_second_request_waiting_is_gone_for_the_first(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endpoint(request: Request) -> Response:
        begun.set()
        await gone(request)
        ended.set()
        return Response()

    async with behind(tmp_path, endpoint) as url:
        async with raw(url) as client:
            await client.send(ASK + ASK)
            async with asyncio.timeout(10):
                await begun.wait()
        async with asyncio.timeout(10):
            await ended.wait()


@requirement("door:one-answer")
async def test_a_bad_request_is_not_answered_in_the_place_of_the_one_before_it(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def endpoint(request: Request) -> Response:
        begun.set()
        await gone(request)
        return Response()

    async with behind(tmp_path, endpoint) as url:
        for bad in (NO_HOST, b"NONSENSE\r\n\r\n", ASK + NO_HOST, b"\r\n" * 33_000):
            begun.clear()
            async with raw(url) as client:
                await client.send(ASK)
                async with asyncio.timeout(10):
                    await begun.wait()
                await client.send(bad)
                assert await client.rest() == b""


@requirement("door:one-answer")
async def test_a_bad_request_is_not_answered_within_the_answer_to_the_one_before_it(tmp_path: Path) -> None:
    async def endpoint(request: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            yield b"first"
            await gone(request)

        return StreamingResponse(lines())

    async with behind(tmp_path, endpoint) as url, raw(url) as client:
        await client.send(ASK)
        await client.reader.readuntil(b"first")
        await client.send(NO_HOST)
        said = await client.rest()

    assert said == b"\r\n"  # the end of the piece


@requirement("door:one-answer")
async def test_a_bad_request_after_the_answer_to_the_one_before_it_is_told(it: tuple[FrontService, str]) -> None:
    _, url = it
    async with raw(url) as client:
        await client.send(LAST.replace(b"Connection: close\r\n", b""))
        assert (await client.reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        await client.send(NO_HOST)
        said = await client.rest()

    assert statuses(said) == [b"400"]


@requirement("door:patience")
async def test_a_connection_whose_body_came_after_the_answer_is_kept_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEAD_WITHIN", 0.2)
    monkeypatch.setattr(main, "KEEP_ALIVE", 1)
    async with behind(tmp_path, refused) as url, raw(url) as client:
        await client.send(EARLY + b"Content-Length: 3\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        began = time.monotonic()
        await client.send(b"abc")
        said = await client.rest()

    assert said == b""  # nothing was begun that could be answered
    assert time.monotonic() - began > 0.9


@requirement("door:patience")
async def test_a_request_behind_a_body_that_came_after_the_answer_has_all_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endpoint(request: Request) -> Response:
        if request.method == "POST":
            return Response(status_code=401)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gone(request), 0.6)
        return Response("in time")

    monkeypatch.setattr(main, "KEEP_ALIVE", 0.2)
    async with behind(tmp_path, endpoint) as url, raw(url) as client:
        await client.send(EARLY + b"Content-Length: 3\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        await client.send(b"abc" + ASK)
        said = await client.rest()

    assert said.endswith(b"in time")


BAD_BODIES = {"tiny chunks": b"1\r\nx\r\n" * 13_300, "no chunk": b"nonsense\r\n"}


@requirement("door:bounds")
@pytest.mark.parametrize("rest", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_body_is_told(tmp_path: Path, rest: bytes) -> None:
    async def endpoint(request: Request) -> Response:
        return Response(await request.body())

    async with behind(tmp_path, endpoint) as url, raw(url) as client:
        await client.send(EARLY + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(rest)
        said = await client.rest()

    assert statuses(said) == [b"400"]


@requirement("door:one-answer")
@pytest.mark.parametrize("rest", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_body_that_comes_after_the_answer_is_not_answered_again(tmp_path: Path, rest: bytes) -> None:
    async with behind(tmp_path, refused) as url, raw(url) as client:
        await client.send(EARLY + b"Transfer-Encoding: chunked\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        await client.send(rest)
        said = await client.rest()

    assert said == b""


@requirement("door:one-answer")
async def test_what_follows_a_body_in_chunks_is_no_header_of_its_request(tmp_path: Path) -> None:
    async def endpoint(request: Request) -> Response:
        return JSONResponse([(await request.body()).decode(), *sorted(request.headers.keys())])

    async with behind(tmp_path, endpoint) as url, raw(url) as client:
        await client.send(EARLY + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n")
        await client.send(b"Authorization: Bearer x\r\nX-Forwarded-For: 192.0.2.1\r\nHost: example.com\r\n\r\n")
        said = await client.rest()

    assert json.loads(said.partition(b"\r\n\r\n")[2]) == ["abc", "connection", "host", "transfer-encoding"]


# -- many -----------------------------------------------------------------------------------------------------------------


@requirement("door:many")
async def test_two_hundred_sessions_at_once_are_served_in_both_eras(it: tuple[FrontService, str]) -> None:
    service, url = it
    tokens = [await service.key(Principal(id=f"agent:a{n}", kind=Kind.AGENT, acts_for="person:ana"), "platform") for n in range(50)]
    together = asyncio.Barrier(200)
    known: list[str] = []
    trust = ssl.create_default_context()  # once: loading it two hundred times takes longer than everything else

    async def session(number: int) -> None:
        headers = {"Authorization": f"Bearer {tokens[number % 50]}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENT, verify=trust) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http), mode="auto" if number % 2 else "legacy") as client,
        ):
            await together.wait()  # all are open at the same time
            known.append((await call(client, "whoami"))["data"]["principal"])
            await call(client, "list_environments")
            await client.list_tools()

    async with asyncio.timeout(300):
        await asyncio.gather(*(session(number) for number in range(200)))

    assert sorted(known) == sorted(f"agent:a{n % 50}" for n in range(200))
