"""What every level of tests shares."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requirement(*ids): behaviours of tests/requirements.py that the test proves")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
