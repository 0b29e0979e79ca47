"""What the parts of the service say in their local logs."""

import logging

import pytest

from countersign.adapters.logs import Log
from countersign.cli.serving import Redacted

SAID = logging.getLogger("countersign.tests.said")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def test_a_fact_stands_beside_what_happened(caplog: pytest.LogCaptureFixture) -> None:
    Log(SAID.name).warning("a delivery could not be recorded", webhook="ops", tries=2, reason="the store is busy")

    assert said(caplog) == ['WARNING a delivery could not be recorded webhook=ops tries=2 reason="the store is busy"']


def test_no_value_from_outside_ends_a_line_or_looks_like_another_fact(caplog: pytest.LogCaptureFixture) -> None:
    Log(SAID.name).error("refused", why='no\nERROR forged run=run_1 "x"', empty="")

    assert said(caplog) == ['ERROR refused why="no\\nERROR forged run=run_1 \\"x\\"" empty=""']


def test_what_is_not_heard_is_not_made_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=SAID.name)

    Log(SAID.name).info("worker ready", host="h1")

    assert said(caplog) == []


def test_an_exception_says_where_it_came_from_and_none_of_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("postgresql://ana:hunter2-x@db.example.com/runs does not answer")
    except ValueError:
        Log(SAID.name).exception("step failed", step="terraform.plan")

    text = Redacted("%(levelname)s %(message)s").format(caplog.records[0])
    assert text.startswith("ERROR step failed step=terraform.plan\nTraceback")
    assert "test_an_exception_says_where" in text
    assert "hunter2" not in text
