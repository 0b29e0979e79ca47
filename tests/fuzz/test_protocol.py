"""Thousands of requests made up from the protocol and the tools' schemas: none breaks the front, none learns what it must not.

The same ones every time; `FUZZ=random` makes up others, and a failure prints how to have it again.
"""

import contextlib
import http.client
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.front import CANARIES, Front, front
from tests.fuzz.wire import Request, Wire
from tests.requirements import requirement

REQUESTS = 5000  # at least
AS_FAR_AS_ARGUMENTS = 0.60  # of them, at least
BATCH = 8  # requests of one example
EXAMPLES = 680
GROWTH = 16.0  # MiB over the second half
WITHIN = 30.0  # seconds for one answer
LEAKS = (b"Traceback (most recent call last)", b'File "/', b"site-packages", b"sqlalchemy", *(word.encode() for word in CANARIES))


@dataclass
class Counts:
    sent: int = 0
    to_arguments: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    memory: list[float] = field(default_factory=list)


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with front(tmp_path_factory.mktemp("fuzz")) as running:
        yield running


class Client:
    """One connection, kept as long as the front keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = self._new()

    def _new(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=WITHIN)

    def send(self, request: Request) -> tuple[int, bytes]:
        for again in (True, False):
            try:
                self._connection.putrequest(request.method, request.path, skip_host="Host" in request.headers, skip_accept_encoding=True)
                for name, value in {**request.headers, "Content-Length": str(len(request.body))}.items():
                    self._connection.putheader(name, value)
                self._connection.endheaders(request.body)
                response = self._connection.getresponse()
                return response.status, response.read()
            except (http.client.RemoteDisconnected, ConnectionError, http.client.CannotSendRequest):
                # The front ends connections whose request was not worth another; a new one has to be had.
                self._connection.close()
                self._connection = self._new()
                if not again:
                    raise
        raise AssertionError


def messages(said: bytes) -> list[dict[str, Any]]:
    """The JSON documents of an answer, whether it came as one or as events."""
    found = []
    for line in [said, *(part.removeprefix(b"data:") for part in said.splitlines() if part.startswith(b"data:"))]:
        with contextlib.suppress(ValueError):
            document = json.loads(line)
            found += [document] if isinstance(document, dict) else []
    return found


def judge(request: Request, status: int, said: bytes, counts: Counts) -> None:
    """What no answer may be, whatever was asked."""
    counts.statuses[status] += 1
    assert status < 500, (status, said[:2000], request)
    for leak in LEAKS:
        assert leak not in said or leak in request.body, (leak, said[:2000], request)
    for message in messages(said):
        error = message.get("error")
        assert not isinstance(error, dict) or error.get("code") != -32603, (message, request)  # the protocol's word for a mistake of ours
        result = message.get("result")
        content = result.get("structuredContent") if isinstance(result, dict) else None
        if request.tool and content is not None:
            counts.to_arguments += 1
            code = (content.get("error") or {}).get("code", "ok")
            counts.codes[code] += 1
            assert code != "internal", (content, request)


def seeded(it: Front) -> list[str]:
    """Two runs that wait, so that tools of runs find some."""
    started = [it.call("terraform_plan", env="dev", workspace=name) for name in ("main", "shop")]
    assert all(one["error"]["code"] == "unavailable" for one in started)  # no Temporal: on record all the same
    return [run["run_id"] for run in it.call("run_list")["data"]["runs"]]


@requirement("door:fuzz")
def test_no_request_breaks_the_front_or_learns_what_it_must_not(it: Front) -> None:
    counts, client = Counts(), Client(it.port)
    runs = seeded(it)
    assert len(runs) == 2
    wires = [Wire(key, runs, session=it.session(key)) for key in (it.agent, it.admin)]
    begun = time.monotonic()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=os.environ.get("FUZZ") != "random",
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(st.one_of(*(st.lists(wire.any(), min_size=BATCH, max_size=BATCH) for wire in wires)))
    def batches(requests: list[Request]) -> None:
        for request in requests:
            asked = time.monotonic()
            status, said = client.send(request)
            counts.sent += 1
            counts.slowest = max(counts.slowest, time.monotonic() - asked)
            judge(request, status, said, counts)
            if counts.sent % 500 == 0:
                counts.memory.append(it.memory())

    batches()
    report(counts, time.monotonic() - begun)

    assert counts.sent >= REQUESTS
    assert counts.to_arguments / counts.sent >= AS_FAR_AS_ARGUMENTS
    half = counts.memory[len(counts.memory) // 2]
    assert counts.memory[-1] - half <= GROWTH, f"memory grows: {counts.memory}"
    assert it.process.poll() is None
    assert it.call("whoami")["data"]["principal"] == "person:admin"
    log = it.log.read_text(errors="replace")
    assert "Traceback" not in log, log[-5000:]
    assert not any(word in log for word in CANARIES)


def report(counts: Counts, took: float) -> None:
    share = counts.to_arguments / max(counts.sent, 1)
    memory = ", ".join(f"{mib:.0f}" for mib in counts.memory)
    print(f"\n  {counts.sent} requests in {took:.0f} s (≥ {REQUESTS}), {share:.0%} as far as arguments (≥ {AS_FAR_AS_ARGUMENTS:.0%})")
    print(f"  statuses {dict(counts.statuses.most_common())}; slowest answer {counts.slowest:.2f} s")
    print(f"  answers of tools {dict(counts.codes.most_common())}")
    print(f"  memory, every 500 requests: {memory} MiB", flush=True)


def test_a_leak_would_be_found(it: Front) -> None:
    """What is looked for in answers is in the store, where it was put."""
    store = b"".join(file.read_bytes() for file in Path(it.data).glob("countersign.db*"))

    assert CANARIES[1].encode() in store
    assert CANARIES[2].encode() in store
    assert CANARIES[0].encode() not in store  # sealed
    with pytest.raises(AssertionError):
        judge(Request(body=b""), 200, b"so it is c4naryS3cretValue", Counts())
    with pytest.raises(AssertionError):
        judge(Request(body=b""), 500, b"", Counts())
