"""The fake provider as a process, for Terraform and OpenTofu: protocol 6 over gRPC on a unix socket.

Two ways to run it:

* reattached: `python -m tests.fakecloud.provider --socket PATH --ready FILE` writes the value of TF_REATTACH_PROVIDERS to FILE.
  It is nobody's child and serves any number of commands.
* as a plugin that Terraform starts (through `mirror.py`): says where it listens in go-plugin's one line. It ends with its
  parent, as real ones do, unless FAKE_OUTLIVES is set.

FAKE_CLOUD is the cloud's address, COUNTERSIGN_ATTEMPT the marker its objects carry.
"""

import argparse
import json
import os
import select
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from tests.fakecloud.calls import CloudError, Connection
from tests.fakecloud.schema import DATA, PROVIDER, RESOURCES, Attribute
from tests.fakecloud.wire import UNKNOWN, decode, encode, pack, unpack

ADDRESS = "fake.test/countersign/fake"
VERSION = "0.0.1"
COOKIE = "TF_PLUGIN_MAGIC_COOKIE"
_OURS = ("id", "etag", "created_at")  # what the cloud gives and no configuration sets
_APART = ("name", "project", *_OURS)  # not among the attributes of an object in the cloud


class Provider:
    """Each method is a call of tfplugin6.Provider, decoded: request → response."""

    def __init__(self, address: str, marker: str) -> None:
        self._cloud = Connection(address=address, marker=marker)
        self._project = "default"

    # About the provider

    def get_provider_schema(self, request: dict[str, Any]) -> dict[str, Any]:
        return {
            "provider": PROVIDER.message(),
            "resource_schemas": [{"key": name, "value": kind.message()} for name, kind in RESOURCES.items()],
            "data_source_schemas": [{"key": name, "value": kind.message()} for name, kind in DATA.items()],
            "server_capabilities": {"get_provider_schema_optional": True},
        }

    def nothing_to_say(self, request: dict[str, Any]) -> dict[str, Any]:
        return {}

    def configure_provider(self, request: dict[str, Any]) -> dict[str, Any]:
        config = unpack(request.get("config")) or {}
        if isinstance(config.get("address"), str):
            self._cloud = Connection(address=config["address"], marker=self._cloud.marker)
        self._project = config.get("project") or "default"
        return {}

    # Resources

    def upgrade_resource_state(self, request: dict[str, Any]) -> dict[str, Any]:
        known = RESOURCES[request["type_name"]].attributes
        state = unpack(request.get("raw_state")) or {}
        return {"upgraded_state": pack({name: state.get(name) for name in known})}

    def read_resource(self, request: dict[str, Any]) -> dict[str, Any]:
        state = unpack(request["current_state"])
        one = self._cloud.read(state["id"])
        return {"new_state": pack(_state(request["type_name"], one) if one else None)}

    def plan_resource_change(self, request: dict[str, Any]) -> dict[str, Any]:
        prior, planned = unpack(request.get("prior_state")), unpack(request.get("proposed_new_state"))
        if planned is None:
            return {"planned_state": pack(None)}
        config, kind = unpack(request.get("config")) or {}, RESOURCES[request["type_name"]]
        if planned.get("project") is None or (prior is None and config.get("project") is None):
            planned["project"] = self._project
        differing = [name for name, a in kind.attributes.items() if name not in _OURS and prior and planned[name] != prior[name]]
        replaces = [name for name in differing if kind.attributes[name].replaces]
        for name, attribute in kind.attributes.items():
            if name in _OURS and (prior is None or (differing and attribute.changes_always)):
                planned[name] = UNKNOWN
        return {"planned_state": pack(planned), "requires_replace": [{"steps": [{"attribute_name": name}]} for name in replaces]}

    def apply_resource_change(self, request: dict[str, Any]) -> dict[str, Any]:
        prior, planned, kind = unpack(request.get("prior_state")), unpack(request.get("planned_state")), request["type_name"]
        try:
            if planned is None:
                self._cloud.delete(prior["id"])
                return {"new_state": pack(None)}
            attributes = {name: value for name, value in planned.items() if name not in _APART}
            if prior is None:
                one = self._cloud.create(type=kind, project=planned["project"], name=planned["name"], attributes=attributes)
            else:
                one = self._cloud.update(prior["id"], attributes)
            return {"new_state": pack(_state(kind, one))}
        except CloudError as refused:
            return {"new_state": pack(prior), "diagnostics": [_error(refused)]}

    def import_resource_state(self, request: dict[str, Any]) -> dict[str, Any]:
        """By id, or by `project/name`, which has to be unique then; what does not exist is read as nothing afterwards."""
        kind, id = request["type_name"], request["id"]
        project, by_name, name = id.partition("/")
        if by_name:
            found = self._cloud.lookup(type=kind, project=project, name=name)
            if len(found) > 1:
                raise CloudError(f"there are {len(found)} objects {id}")
            id = found[0]["id"] if found else "none"
        state = {name: id if name == "id" else None for name in RESOURCES[kind].attributes}
        return {"imported_resources": [{"type_name": kind, "state": pack(state)}]}

    def read_data_source(self, request: dict[str, Any]) -> dict[str, Any]:
        config = unpack(request["config"])
        project = config["project"] or self._project
        found = self._cloud.lookup(type=config["type"], project=project, name=config["name"])
        return {"state": pack({**config, "project": project, "found": len(found), "id": found[0]["id"] if len(found) == 1 else None})}

    def stop_provider(self, request: dict[str, Any]) -> dict[str, Any]:
        return {}  # what is under way is finished: no object is dropped half made


def _state(kind: str, one: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Attribute] = RESOURCES[kind].attributes
    whole = {**one["attributes"], **{name: one[name] for name in _APART}}
    return {name: whole.get(name) for name in known}


def _error(refused: Exception) -> dict[str, Any]:
    return {"severity": 1, "summary": "the fake cloud refused", "detail": str(refused)}


# method → (request message, response message, how)
Call = Callable[[Provider, dict[str, Any]], dict[str, Any]]
CALLS: dict[str, tuple[str, str, Call]] = {
    "GetProviderSchema": ("Empty", "GetProviderSchema.Response", Provider.get_provider_schema),
    "ValidateProviderConfig": ("Empty", "Diagnostics2", Provider.nothing_to_say),
    "ConfigureProvider": ("Config.Request", "Diagnostics", Provider.configure_provider),
    "ValidateResourceConfig": ("Empty", "Diagnostics", Provider.nothing_to_say),
    "ValidateDataResourceConfig": ("Empty", "Diagnostics", Provider.nothing_to_say),
    "UpgradeResourceState": ("UpgradeResourceState.Request", "UpgradeResourceState.Response", Provider.upgrade_resource_state),
    "ReadResource": ("ReadResource.Request", "ReadResource.Response", Provider.read_resource),
    "PlanResourceChange": ("PlanResourceChange.Request", "PlanResourceChange.Response", Provider.plan_resource_change),
    "ApplyResourceChange": ("ApplyResourceChange.Request", "ApplyResourceChange.Response", Provider.apply_resource_change),
    "ImportResourceState": ("ImportResourceState.Request", "ImportResourceState.Response", Provider.import_resource_state),
    "ReadDataSource": ("Config.Request", "ReadDataSource.Response", Provider.read_data_source),
    "StopProvider": ("Empty", "Empty", Provider.stop_provider),
}


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, provider: Provider, shutdown: threading.Event) -> None:
        self._provider, self._shutdown = provider, shutdown

    def service(self, details: Any) -> Any:
        service, _, method = details.method.strip("/").partition("/")
        if service == "tfplugin6.Provider" and method in CALLS:
            asked, answered, call = CALLS[method]

            def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
                request = decode(asked, data)
                try:
                    return encode(answered, call(self._provider, request))
                except CloudError as refused:
                    return encode(answered, {"diagnostics": [_error(refused)]})

            return grpc.unary_unary_rpc_method_handler(handle)
        if (service, method) == ("plugin.GRPCController", "Shutdown"):
            return grpc.unary_unary_rpc_method_handler(self._end)
        return None

    def _end(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        self._shutdown.set()
        return b""


def serve(socket: str, shutdown: threading.Event) -> grpc.Server:
    provider = Provider(os.environ.get("FAKE_CLOUD", ""), os.environ.get("COUNTERSIGN_ATTEMPT", ""))
    server = grpc.server(ThreadPoolExecutor(64), handlers=[Service(provider, shutdown)])
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server


def reattach(socket: str) -> str:
    """The value of TF_REATTACH_PROVIDERS for a provider of this process on that socket."""
    where = {"Network": "unix", "String": socket}
    return json.dumps({ADDRESS: {"Protocol": "grpc", "ProtocolVersion": 6, "Pid": os.getpid(), "Test": True, "Addr": where}})


def main() -> None:
    shutdown = threading.Event()
    if os.environ.get(COOKIE):
        parent = os.pidfd_open(os.getppid())
        socket = str(Path(tempfile.mkdtemp(prefix="fp-")) / "s")
        server = serve(socket, shutdown)
        print(f"1|6|unix|{socket}|grpc", flush=True)
        if not os.environ.get("FAKE_OUTLIVES"):
            threading.Thread(target=lambda: (select.select([parent], [], []), os._exit(0)), daemon=True).start()
        shutdown.wait()
        server.stop(0.1)
        os._exit(0)
    parser = argparse.ArgumentParser(description="the fake provider, to be reattached to")
    parser.add_argument("--socket", required=True, help="shorter than 100 bytes")
    parser.add_argument("--ready", type=Path, required=True, help="a file that holds TF_REATTACH_PROVIDERS as soon as it listens")
    args = parser.parse_args()
    server = serve(args.socket, shutdown)
    temporary = args.ready.with_name(args.ready.name + ".new")
    temporary.write_text(reattach(args.socket))
    temporary.rename(args.ready)
    server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main())
