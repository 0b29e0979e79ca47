"""What every level of tests shares: the event loop, promises by id, and that in CI nothing is skipped."""

import os
from collections.abc import Generator

import pytest

IN_CI = bool(os.environ.get("CI"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requirement(*ids): behaviours of tests/requirements.py that the test proves")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def _failed_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A skip, or an expected failure, is a test nobody ran: where the machine is ours, whatever is missing has to be installed."""
    if IN_CI and report.skipped:
        where = report.longrepr
        why = where[2] if isinstance(where, tuple) else getattr(report, "wasxfail", "") or str(where)
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be: {why}"
        if hasattr(report, "wasxfail"):
            del report.wasxfail


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _failed_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _failed_in_ci(report)
    return report
