"""The Temporal that comes along, started as `up` starts it: prepared as often as one likes, whatever its file was before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.service import ConnectConfig, RPCError, ServiceClient

from countersign.adapters.process import start_service, stop_service
from countersign.adapters.settings import Settings
from countersign.cli.embedded_temporal import attributes_missing, command, database, environment, prepare
from countersign.cli.ground import free_ports
from countersign.core.attributes import SEARCH_ATTRIBUTES
from countersign.core.errors import FailedPrecondition

pytestmark = pytest.mark.anyio
PATIENCE = 400  # looks
KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
NINETY_DAYS = 7_776_000  # seconds


def settings_on(data: Path) -> Settings:
    port, ui = free_ports(2)
    return Settings(data=data, temporal_port=port, temporal_ui_port=ui)


@asynccontextmanager
async def server(settings: Settings, *, bare: bool = False) -> AsyncIterator[ServiceClient]:
    """The server; `bare` as another program would have started it, without our search attributes."""
    words = command(settings)
    if bare:
        words = words[: words.index("--search-attribute")]
    process = await start_service(words, cwd=settings.data, env={"PATH": "/usr/bin:/bin"}, log=settings.data / "temporal.log")
    try:
        yield await connected(settings)
    finally:
        await stop_service(process)


async def connected(settings: Settings) -> ServiceClient:
    for _ in range(PATIENCE):
        try:
            client = await ServiceClient.connect(ConnectConfig(target_host=settings.temporal_target))
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
            return client
        except (RuntimeError, RPCError):
            await asyncio.sleep(0.05)
    raise AssertionError("no server")


async def attributes(client: ServiceClient) -> dict[str, Any]:
    listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))
    return {name: listed.custom_attributes[name] for name in listed.custom_attributes if name.startswith("Cs")}


async def retention(client: ServiceClient) -> int:
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
    return int(described.config.workflow_execution_retention_ttl.seconds)


async def test_a_new_file_has_everything_and_preparing_it_again_changes_nothing(tmp_path: Path) -> None:
    settings = settings_on(tmp_path)
    async with server(settings) as client:
        for _ in range(2):
            await prepare(settings)

            assert await attributes(client) == dict.fromkeys(SEARCH_ATTRIBUTES, KEYWORD)
            assert await retention(client) == NINETY_DAYS

    assert database(tmp_path).is_file()


async def test_a_file_that_somebody_else_made_gets_what_it_lacks_and_keeps_it(tmp_path: Path) -> None:
    settings = settings_on(tmp_path)
    async with server(settings, bare=True):
        assert await attributes_missing(settings) == sorted(SEARCH_ATTRIBUTES)
        await prepare(settings)

    async with server(settings) as client:
        assert await attributes_missing(settings) == []
        assert await retention(client) == NINETY_DAYS


async def test_an_attribute_of_another_type_is_named_and_left_alone(tmp_path: Path) -> None:
    settings = settings_on(tmp_path)
    async with server(settings, bare=True) as client:
        text = IndexedValueType.INDEXED_VALUE_TYPE_TEXT
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace="default", search_attributes={"CsOrg": text})
        )

        with pytest.raises(FailedPrecondition, match="CsOrg"):
            await prepare(settings)

        assert await attributes(client) == {"CsOrg": text}


async def test_where_no_server_answers_nothing_is_known(tmp_path: Path) -> None:
    assert await attributes_missing(settings_on(tmp_path)) is None


@pytest.mark.parametrize(("cores", "its_own"), [(0.5, "1"), (2.0, "1"), (3.0, "1"), (4.0, "2"), (16.0, "8")])
def test_it_takes_half_of_the_cores_and_leaves_the_other_half_to_engines(cores: float, its_own: str) -> None:
    assert environment(cores)["GOMAXPROCS"] == its_own
