"""A Temporal for each module, and the service on it with the tiny engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.service import Service, service, temporal_server
from tests.toy.engine import ToyEngine, install


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture
async def it(client: Client, tmp_path: Path) -> AsyncIterator[Service]:
    install()
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), ui_approvals="trusted") as running:
        yield running
