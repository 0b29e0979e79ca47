"""A Temporal for each module, and the service on it with the tiny engine, on either database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.postgres import BOTH, cluster, database_of, postgres_url  # noqa: F401  fixtures of this level
from tests.service import Service, service, temporal_server
from tests.toy.engine import ToyEngine, install


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, client: Client, tmp_path: Path) -> AsyncIterator[Service]:
    install()
    with database_of(request) as database:
        async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), ui_approvals="trusted", database=database) as running:
            yield running
