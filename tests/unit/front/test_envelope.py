"""One envelope: an error fits the tool's own schema, texts from outside are labelled, and nothing exceeds its cap."""

import json
from typing import Any

import jsonschema
import pytest

from countersign.core.errors import BY_CODE, Unavailable
from mcp_front.envelope import CAP, OUTPUT_SCHEMA, Answer, Page, Result, clean, failure, structured, untrusted
from tests.requirements import requirement

LIES = "a\x1b[31mb\u202ec\u200bd\x00e\u2066f"  # terminal colours, right-to-left override, zero width, NUL, isolate


def size(content: Any) -> int:
    return len(json.dumps(content, ensure_ascii=False).encode())


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_is_valid_against_the_output_schema(code: str) -> None:
    error = BY_CODE[code]("do that instead", field="env", details={"run_id": "run_1"})
    content = structured(failure(error, request_id="req_1", offered=["run_get"]))

    jsonschema.validate(content, OUTPUT_SCHEMA)
    assert content["error"] == {
        "code": code,
        "message": "do that instead",
        "field": "env",
        "retryable": code in {"unavailable", "locked", "rate_limited", "timeout", "freeze_window"},
        "next": ["run_get"],
        "run_id": "run_1",
        "request_id": "req_1",
    }


def test_an_error_that_may_pass_says_when_to_ask_again() -> None:
    content = structured(failure(Unavailable("later", retry_after_seconds=5), request_id="req_1"))

    assert content["error"]["retry_after_seconds"] == 5


@requirement("bad:control-characters")
def test_characters_that_lie_reach_nobody_who_reads() -> None:
    assert untrusted(LIES, "a plan")["text"] == "abcdef"
    assert clean({LIES: [LIES, 1, None, True]}) == {"abcdef": ["abcdef", 1, None, True]}
    assert structured(failure(BY_CODE["not_found"](LIES), request_id="r"))["error"]["message"] == "abcdef"


def test_text_from_outside_is_labelled_redacted_and_says_when_it_was_cut() -> None:
    told = untrusted("token ghp_" + "a" * 36 + " " + "x" * 50, "a log", limit=20)

    assert (told["source"], told["untrusted"], told["truncated"], len(told["text"])) == ("a log", True, True, 20)
    assert "ghp_" not in told["text"]
    assert untrusted("first\nlast", "a log", limit=4, tail=True)["text"] == "last"


def test_an_answer_within_the_cap_is_left_alone() -> None:
    data = {"runs": [{"n": n} for n in range(100)], "nothing": None}

    assert structured(Result(data=data)) == {"data": data}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"runs": [{"text": "x" * 3000} for _ in range(100)]}, "data.runs: 100 entries in all"),
        ({"outputs": {f"k{n}": {"v": "x" * 300} for n in range(1000)}}, "data.outputs: 1000 entries in all"),
        ({"log": {"text": "é" * 100_000, "source": "s", "untrusted": True}}, "data.log.text: 100000 characters in all"),
        ({"deep": {"deeper": [{"list": ["y" * 500] * 400}]}}, "data.deep.deeper.list: 400 entries in all"),
    ],
)
def test_what_is_longest_is_cut_and_the_total_told(data: dict[str, Any], told: str) -> None:
    content = structured(Result(data=data))

    assert CAP / 2 < size(content["data"]) <= CAP
    assert told in content["warnings"][0]


def test_a_page_that_was_cut_says_so() -> None:
    page = Page(returned=100, total=100)
    content = structured(Result(data={"runs": ["x" * 2000] * 100}, page=page))

    assert content["page"]["truncated"] is True


def test_an_answer_without_anything_is_an_empty_object() -> None:
    assert structured(Answer(text="done").result(offered=[])) == {}
