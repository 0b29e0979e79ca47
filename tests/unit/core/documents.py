"""Plan documents, journals and states in the engine's own spelling, as small as a test about them needs."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from countersign.core.terraform import document as doc
from countersign.core.terraform import state

Json = dict[str, Any]
PROVIDER = "fake.test/countersign/fake"


def change(address: str, *actions: str, before: Json | None = None, after: Json | None = None, unknown: Any = None, **more: Any) -> Json:
    """One entry of `resource_changes`. `more`: importing, previous_address, deposed, reason, mode, type, provider, sensitive."""
    name = address.rpartition("module.")[2] if "module." not in address else address.split(".", 2)[2]
    inner: Json = {"actions": list(actions), "before": before, "after": after, "after_unknown": unknown or {}}
    sensitive = more.pop("sensitive", {"secret": True})
    inner |= {"before_sensitive": sensitive if before else False, "after_sensitive": sensitive if after else False}
    for key in ("importing", "generated_config", "replace_paths"):
        if key in more:
            inner[key] = more.pop(key)
    entry: Json = {"address": address, "mode": "managed", "type": more.pop("type", name.split(".")[0]), "provider_name": PROVIDER}
    if "reason" in more:
        entry["action_reason"] = more.pop("reason")
    return {**entry, "change": inner, **more}


def plan(*changes: Json, **more: Any) -> Json:
    """A plan document. `more`: outputs, drift, variables, configuration and whatever else a plan has."""
    whole: Json = {"format_version": "1.2", "terraform_version": "1.11.4", "resource_changes": list(changes)}
    whole |= {"errored": False, "complete": True, "configuration": {"root_module": {}}}
    whole["output_changes"] = more.pop("outputs", {})
    whole["resource_drift"] = more.pop("drift", [])
    return doc.parse(json.dumps({**whole, **more}))


def output(action: str, *, before: Any = None, after: Any = None, unknown: bool = False, sensitive: bool = False) -> Json:
    value = {} if unknown else {"after": after}
    return {
        "actions": [action],
        "before": before,
        **value,
        "after_unknown": unknown,
        "before_sensitive": sensitive,
        "after_sensitive": sensitive,
    }


def event(kind: str, address: str, action: str | None = None, id: str | None = None, id_key: str = "id") -> bytes:
    hook: Json = {"resource": {"addr": address}}
    if action is not None:
        hook["action"] = action
    if id is not None:
        hook |= {"id_key": id_key, "id_value": id}
    return json.dumps({"type": kind, "hook": hook}).encode()


def journal(*events: bytes) -> bytes:
    version = b'{"@message":"Terraform 1.11.4","type":"version","terraform":"1.11.4"}'
    return b"\n".join((version, *events, b""))


def state_of(objects: Iterable[Mapping[str, Any]]) -> state.StateDocument:
    """Each object: address, id, and perhaps tainted, deposed (its key), attributes. Modules and keys are not taken apart."""
    resources = []
    for one in objects:
        kind, _, name = str(one["address"]).partition(".")
        instance: Json = {"attributes": {"id": one["id"], **one.get("attributes", {})}}
        if one["id"] is None:
            del instance["attributes"]["id"]
        if one.get("tainted"):
            instance["status"] = "tainted"
        if one.get("deposed"):
            instance["deposed"] = one["deposed"]
        resources.append({"mode": "managed", "type": kind, "name": name, "provider": f'provider["{PROVIDER}"]', "instances": [instance]})
    whole = {"version": 4, "terraform_version": "1.11.4", "serial": 3, "lineage": "a-b-c", "outputs": {}, "resources": resources}
    return state.read(json.dumps(whole).encode())
