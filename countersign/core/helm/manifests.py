"""Rendered manifests: many documents of YAML, read as the API server would read them.

PyYAML reads YAML 1.1 by the book, which Go and Kubernetes do not: there a port mapping `22:22` is no number of base sixty and a date is a
text. What Go would let pass in silence is refused here, because nobody could say what people agreed to: a key written twice in
one object, and one object written twice.
"""

import json
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from countersign.core.errors import ProviderError
from countersign.core.redaction import clean_line, cut

SIZE = 16 << 20  # characters of one text; a release that is stored has less than 1 MiB, compressed
OBJECTS = 2000
NODES = 500_000  # values in one document, aliases followed: a few lines of them can stand for billions
DEPTH = 100

# Kinds of Kubernetes itself that live in no namespace. Of others only the cluster knows.
CLUSTER_SCOPED: frozenset[tuple[str, str]] = frozenset(
    {
        ("", "Namespace"), ("", "Node"), ("", "PersistentVolume"),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"), ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"), ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"), ("apiregistration.k8s.io", "APIService"),
        ("certificates.k8s.io", "CertificateSigningRequest"), ("certificates.k8s.io", "ClusterTrustBundle"),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema"), ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
        ("networking.k8s.io", "IngressClass"), ("networking.k8s.io", "IPAddress"), ("networking.k8s.io", "ServiceCIDR"),
        ("node.k8s.io", "RuntimeClass"), ("rbac.authorization.k8s.io", "ClusterRole"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"), ("resource.k8s.io", "DeviceClass"), ("resource.k8s.io", "ResourceSlice"),
        ("scheduling.k8s.io", "PriorityClass"), ("storage.k8s.io", "CSIDriver"), ("storage.k8s.io", "CSINode"),
        ("storage.k8s.io", "StorageClass"), ("storage.k8s.io", "VolumeAttachment"), ("storage.k8s.io", "VolumeAttributesClass"),
    }
)  # fmt: skip

POLICY = "helm.sh/resource-policy"
HOOK = "helm.sh/hook"
HOOK_EVENTS = frozenset(
    {
        "pre-install", "post-install", "pre-delete", "post-delete", "pre-upgrade", "post-upgrade", "pre-rollback", "post-rollback",
        "test", "test-success", "crd-install",
    }
)  # fmt: skip
DELETE_POLICIES = ("before-hook-creation",)  # where the chart says nothing


class BrokenManifest(ProviderError):
    """What was rendered cannot be what somebody agrees to. The message names document and line, and quotes no value."""


@dataclass(frozen=True, kw_only=True, order=True)
class Key:
    """Which object: as Helm itself tells objects apart, whatever version of the API they are written in."""

    group: str  # empty: Kubernetes' core
    kind: str
    namespace: str  # empty: of the whole cluster
    name: str

    @property
    def address(self) -> str:
        """`Deployment.apps/shop/web`, `Service/shop/web`, `ClusterRole.rbac.authorization.k8s.io/reader`."""
        return "/".join(part for part in (self.type, self.namespace, self.name) if part)

    @property
    def type(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind


@dataclass(frozen=True, kw_only=True)
class Hook:
    events: tuple[str, ...]
    weight: int = 0
    delete_policies: tuple[str, ...] = DELETE_POLICIES

    @property
    def is_test(self) -> bool:
        return all(event.startswith("test") for event in self.events)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One object as it was rendered."""

    key: Key
    api_version: str
    body: Mapping[str, Any] = field(repr=False)
    source: str = ""  # the template it came from, where Helm says so
    hook: Hook | None = None

    @property
    def kept(self) -> bool:
        """Helm does not delete it on an uninstall; on an upgrade the live object's own word counts."""
        return str(annotations(self.body).get(POLICY, "")).strip().lower() == "keep"

    @property
    def is_crd(self) -> bool:
        return (self.key.group, self.key.kind) == ("apiextensions.k8s.io", "CustomResourceDefinition")


def annotations(body: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = body.get("metadata")
    found = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def parse(text: str, *, namespace: str, cluster_scoped: Container[tuple[str, str]] = CLUSTER_SCOPED) -> tuple[Manifest, ...]:
    """Every object of `text`, hooks among them, in its order. `namespace` is where the release goes: what names none lives there.

    `cluster_scoped` holds (group, kind) of what lives in no namespace. Raises BrokenManifest.
    """
    if len(text) > SIZE:
        raise BrokenManifest(f"the manifest has {len(text)} characters, more than {SIZE}; split the chart")
    found: dict[Key, Manifest] = {}
    for number, source, document in _documents(text):
        where = f"document {number}" + (f" ({source})" if source else "")
        for body in _items(document, where):
            manifest = _manifest(body, source=source, where=where, namespace=namespace, cluster_scoped=cluster_scoped)
            if (other := found.get(manifest.key)) is not None:
                also = f", as {other.source} does" if other.source else ""
                raise BrokenManifest(f"{where} writes {manifest.key.address} once more{also}; an object can be written only once")
            if len(found) >= OBJECTS:
                raise BrokenManifest(f"the manifest holds more than {OBJECTS} objects; split the chart")
            found[manifest.key] = manifest
    return tuple(found.values())


def load(text: str, *, what: str, most: tuple[int, int] = (SIZE, NODES)) -> Any:
    """One document of YAML, as JSON values, of at most so many characters and values. Raises BrokenManifest; `what` names it, as in
    "values.yaml"."""
    if len(text) > most[0]:
        raise BrokenManifest(f"{what} has {len(text)} characters, more than {most[0]}")
    return _load(text, what, most[1])


def _documents(text: str) -> Iterator[tuple[int, str, Any]]:
    """(number, template, value) of each document that holds anything."""
    number = 0
    for piece in re.split(r"^---(?=\s|\Z)", text, flags=re.MULTILINE):
        source = re.search(r"^# Source: (\S+)", piece, flags=re.MULTILINE)
        name = cut(clean_line(source[1]), 200) if source else ""
        if not piece.strip():
            continue
        number += 1
        if (value := _load(piece, f"document {number}" + (f" ({name})" if name else ""))) is not None:
            yield number, name, value


def _load(text: str, what: str, nodes: int = NODES) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  # _Loader is a safe one that knows less
    except yaml.YAMLError as broken:
        raise BrokenManifest(f"{what} is no YAML that can be read{_line(broken)}: {_problem(broken)}") from None
    except ValueError:
        raise BrokenManifest(f"{what} holds a number that is too long to be one; put it in quotes") from None
    except RecursionError:
        raise BrokenManifest(f"{what} is nested more than {DEPTH} deep") from None
    _bounded(value, what, nodes)
    return value


def _line(broken: yaml.YAMLError) -> str:
    mark = getattr(broken, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _problem(broken: yaml.YAMLError) -> str:
    """The reader's own words, without what stands there: that may be secret."""
    said = str(getattr(broken, "problem", None) or "it holds characters that YAML does not allow")
    return cut(clean_line(re.sub(r"(['\"]).*\1", "…", said)), 120)


def _bounded(value: Any, what: str, nodes: int) -> None:
    """Level by level, for values may hold themselves."""
    level, seen = [value], 0
    for _ in range(DEPTH):
        level = [item for part in level if isinstance(part, dict | list) for item in (part.values() if isinstance(part, dict) else part)]
        seen += len(level)
        if seen > nodes:
            raise BrokenManifest(f"{what} stands for more than {nodes} values; write it without aliases of aliases")
        if not level:
            return
    raise BrokenManifest(f"{what} is nested more than {DEPTH} deep")


def _items(document: Any, where: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a document: itself, or those of a List."""
    if not isinstance(document, Mapping):
        raise BrokenManifest(f"{where} is no object of Kubernetes: it has no fields")
    if document.get("apiVersion") == "v1" and str(document.get("kind")).endswith("List") and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _items(item, where)
    else:
        yield document


def _manifest(body: Mapping[str, Any], *, source: str, where: str, namespace: str, cluster_scoped: Container[tuple[str, str]]) -> Manifest:
    for field_name in ("apiVersion", "kind"):
        if not isinstance(body.get(field_name), str) or not body[field_name]:
            raise BrokenManifest(f"{where} has no {field_name}; every object needs apiVersion, kind and metadata.name")
    api_version, kind = clean_line(body["apiVersion"]), clean_line(body["kind"])
    metadata = body["metadata"] if isinstance(body.get("metadata"), Mapping) else {}
    hook = _hook(metadata, where)
    name: object = metadata.get("name")
    if not name and hook is not None and metadata.get("generateName"):
        name = f"{metadata['generateName']}*"
    if not isinstance(name, str) or not name:
        raise BrokenManifest(f"{where} is a {cut(kind, 80)} without metadata.name, or its name is no text")
    group = api_version.rpartition("/")[0]
    lives = "" if (group, kind) in cluster_scoped else str(metadata.get("namespace") or namespace)
    key = Key(group=group, kind=kind, namespace=clean_line(lives), name=clean_line(name))
    return Manifest(key=key, api_version=api_version, body=body, source=source, hook=hook)


def _hook(metadata: Mapping[str, Any], where: str) -> Hook | None:
    """As Helm reads annotations: what it does not know as an event makes no hook of it, and is refused here for that reason."""
    said = annotations({"metadata": metadata})
    if not isinstance(said.get(HOOK), str):
        return None
    events = tuple(dict.fromkeys(_listed(said[HOOK])))
    if not events or not HOOK_EVENTS.issuperset(events):
        raise BrokenManifest(f"{where} is a hook of an event that Helm does not know; there are {', '.join(sorted(HOOK_EVENTS))}")
    weight = str(said.get("helm.sh/hook-weight", "")).strip()
    return Hook(
        events=events,
        weight=int(weight) if re.fullmatch(r"[+-]?[0-9]{1,9}", weight) else 0,
        delete_policies=tuple(_listed(str(said.get("helm.sh/hook-delete-policy", "")))) or DELETE_POLICIES,
    )


def _listed(text: str) -> Iterator[str]:
    return (clean_line(part).lower() for part in text.split(",") if part.strip())


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times faster where it is there


class _Loader(_Base):  # type: ignore[misc]  # chosen above
    """YAML as Go reads it into JSON: keys are texts, and each stands once."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # as the class above has it


def _number(loader: Any, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text.lstrip("+"))
    octal = re.fullmatch(r"0[0-7]+", digits)
    return int(f"{sign}{digits}", 8 if octal else 0)


def _fraction(loader: Any, node: yaml.ScalarNode) -> object:
    """Infinities and what is no number have no place in JSON: they stay what was written."""
    text = loader.construct_scalar(node)
    value = float(text.replace("_", ""))
    return value if abs(value) != float("inf") else text


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[str, Any]:
    written: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag != "tag:yaml.org,2002:merge":
            key = _key(loader, key_node)
            if key in written:
                raise yaml.constructor.ConstructorError(None, None, "a key is written twice", key_node.start_mark)
            written.add(key)
    loader.flatten_mapping(node)
    return {_key(loader, key_node): loader.construct_object(value, deep=True) for key_node, value in node.value}


def _key(loader: Any, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "a key is no text", node.start_mark)
    value = loader.construct_object(node)
    return value if isinstance(value, str) else json.dumps(value)


def _any_tag(loader: Any, node: yaml.Node) -> Any:
    raise yaml.constructor.ConstructorError(None, None, "a tag of its own has no meaning here", node.start_mark)


_T = "tag:yaml.org,2002:"
for _tag, _pattern, _first in (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", r"[-+]?(?:0b[01][01_]*|0o?[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|[1-9][0-9_]*|0)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?)", "-+0123456789."),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _Loader.add_implicit_resolver(_T + _tag, re.compile(rf"(?:{_pattern})\Z"), list(_first) + ([""] if _tag == "null" else []))
_Loader.add_constructor(_T + "int", _number)
_Loader.add_constructor(_T + "float", _fraction)
_Loader.add_constructor(_T + "map", _mapping)
_Loader.add_constructor(_T + "timestamp", lambda loader, node: loader.construct_scalar(node))
_Loader.add_constructor(_T + "binary", lambda loader, node: loader.construct_scalar(node))
_Loader.add_constructor(None, _any_tag)
