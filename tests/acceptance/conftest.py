"""One running service for the tests that only use it; tests that break it start their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.installed import REPOSITORY, Installed

STACKS = REPOSITORY / "tests" / "stacks"


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installed]:
    it = Installed(data=tmp_path_factory.mktemp("shared") / "data", stacks=STACKS)
    it.start()
    try:
        await it.ready()
        yield it
    finally:
        it.stop()


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Installed]:
    it = Installed(data=tmp_path / "data", stacks=STACKS)
    it.start()
    try:
        await it.ready()
        yield it
    finally:
        it.stop()
