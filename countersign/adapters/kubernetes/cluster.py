"""One configured cluster, as releases need it: what lives there, and what an apply would make of an object, asked without changing it.

The client is synchronous, and so each question is asked in a thread, with a bound; nothing else waits for these threads. What a question
comes to that an object's author can mend is an answer (`Refusal`); what nobody can answer now is raised.
"""

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import urllib3.exceptions
from kubernetes.client import ApiException, Configuration
from kubernetes.config import new_client_from_config_dict
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError, ResourceNotUniqueError

from countersign.adapters.kubernetes.kubeconfig import CONTEXT, Kubeconfig
from countersign.core.errors import CountersignError, PermissionDenied, ProviderError, Unauthenticated, Unavailable
from countersign.core.redaction import clean_line, cut

T = TypeVar("T")
MANAGER = "helm"  # whose fields an apply owns: the name of helm's executable
WITHIN = (5.0, 20.0)  # seconds: to connect, and to be answered
AT_ONCE = 8  # questions about objects of one plan
_THREADS = ThreadPoolExecutor(max_workers=4 * AT_ONCE, thread_name_prefix="kubernetes")
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, kw_only=True)
class Named:
    """Which object; the same whatever it holds."""

    api_version: str
    kind: str
    namespace: str | None
    name: str

    def __str__(self) -> str:
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind}/{place}{self.name}"


class Why(StrEnum):
    """Why an object would not be taken."""

    CONFLICT = "conflict"  # another manager owns a field of it
    INVALID = "invalid"  # also what cannot be changed once it is there
    QUOTA = "quota"
    FORBIDDEN = "forbidden"
    NO_NAMESPACE = "no_namespace"
    UNKNOWN_KIND = "unknown_kind"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    why: Why
    message: str  # the API's own words
    fields: tuple[str, ...] = ()
    conflicts: tuple[tuple[str, str], ...] = ()  # (who owns it, field)

    @property
    def managers(self) -> frozenset[str]:
        return frozenset(manager for manager, _ in self.conflicts)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which cluster this is, whatever it is called."""

    server: str
    uid: str  # of its kube-system namespace: another cluster behind the same address has another one; else of its authority
    version: str


@dataclass(frozen=True, kw_only=True)
class Cluster:
    name: str  # as the operator calls it
    server: str
    _client: DynamicClient = field(repr=False)
    _authority: str = ""  # fingerprint of what its certificates are signed with
    _kinds: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)
    _looking: threading.Lock = field(default_factory=threading.Lock, repr=False)  # discovery is one thread's at a time

    @classmethod
    async def open(cls, config: Kubeconfig, *, name: str, folder: Path) -> "Cluster":
        """`folder` is private, and holds keys for as long as this is used. Raises Unavailable and what the cluster refuses."""
        return await _asked(
            name, lambda: cls(name=name, server=config.server, _client=_client_of(config, folder), _authority=config.authority)
        )

    async def identity(self) -> Identity:
        def ask() -> Identity:
            versions: Any = self._client.version
            version = str(versions["kubernetes"]["gitVersion"])
            try:
                space = self._get(Named(api_version="v1", kind="Namespace", namespace=None, name="kube-system"))
                uid = str((space or {}).get("metadata", {}).get("uid", ""))
            except ApiException as refused:
                if refused.status != 403:  # a credential for some namespaces needs no right to see this one
                    raise
                uid = f"ca-{self._authority}"
            return Identity(server=self.server, uid=uid, version=version)

        return await _asked(self.name, ask)

    async def get(self, named: Named) -> dict[str, Any] | None:
        """The live object, or None where there is none, or no such kind or namespace."""
        return await _asked(self.name, lambda: self._get(named))

    async def get_all(self, every: Iterable[Named]) -> dict[Named, dict[str, Any] | None]:
        names = list(every)
        return dict(zip(names, await self._each(names, self.get), strict=True))

    async def predicted(self, document: Mapping[str, Any], *, namespace: str, force: bool = False) -> dict[str, Any] | Refusal:
        """What would be live after this object was applied."""
        return await _asked(self.name, lambda: self._predicted(document, namespace, force))

    async def predicted_all(self, documents: Sequence[Mapping[str, Any]], *, namespace: str) -> list[dict[str, Any] | Refusal]:
        """The same for many, in their order. Where all fields in conflict are helm's own of before, it is forced, as helm does."""

        async def one(document: Mapping[str, Any]) -> dict[str, Any] | Refusal:
            found = await self.predicted(document, namespace=namespace)
            if isinstance(found, Refusal) and found.managers == {MANAGER}:
                return await self.predicted(document, namespace=namespace, force=True)
            return found

        return await self._each(list(documents), one)

    async def namespaced(self, api_version: str, kind: str) -> bool | None:
        """Whether such objects live in namespaces; None where the cluster knows no such kind."""

        def ask() -> bool | None:
            resource = self._resource(api_version, kind)
            return bool(resource.namespaced) if resource is not None else None

        return await _asked(self.name, ask)

    async def plural(self, api_version: str, kind: str) -> str | None:
        """What quotas call such objects; None where the cluster knows no such kind."""

        def ask() -> str | None:
            resource = self._resource(api_version, kind)
            return str(resource.name) if resource is not None else None

        return await _asked(self.name, ask)

    async def metadata(self, kind: str, *, namespace: str, selector: str) -> list[dict[str, Any]]:
        """Names, labels and annotations of v1 objects in a namespace, without what is in them."""

        def ask() -> list[dict[str, Any]]:
            resource = self._resource("v1", kind)
            headers = {"Accept": _METADATA_ONLY}
            found = resource.get(namespace=namespace, label_selector=selector, header_params=headers, _request_timeout=WITHIN)
            return [item["metadata"] for item in found.to_dict().get("items") or ()]

        return await _asked(self.name, ask)

    async def listed(self, api_version: str, kind: str, *, namespace: str | None, selector: str | None = None) -> list[dict[str, Any]]:
        """All there are; in every namespace, where none is named."""

        def ask() -> list[dict[str, Any]]:
            if (resource := self._resource(api_version, kind)) is None:
                return []
            found = resource.get(namespace=namespace, label_selector=selector, _request_timeout=WITHIN).to_dict()
            return [{"apiVersion": api_version, "kind": kind, **item} for item in found.get("items") or ()]

        return await _asked(self.name, ask)

    async def delete(self, named: Named, *, uid: str) -> bool:
        """Delete the object if it still is the one of that uid; whether it was there."""

        def ask() -> bool:
            if (resource := self._resource(named.api_version, named.kind)) is None:
                return False
            body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
            try:
                resource.delete(name=named.name, namespace=named.namespace, body=body, _request_timeout=WITHIN)
            except ApiException as refused:
                if refused.status in (404, 409):  # gone, or another one of the name by now
                    return False
                raise
            return True

        return await _asked(self.name, ask)

    async def _each(self, items: Sequence[Any], ask: Callable[[Any], Any]) -> list[Any]:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(item: Any) -> Any:
            async with room:
                return await ask(item)

        return list(await asyncio.gather(*map(one, items)))

    def _resource(self, api_version: str, kind: str) -> Any:
        """As discovery tells it; None where the cluster knows no such kind, which may be another answer the next time."""
        with self._looking:
            if (api_version, kind) not in self._kinds:
                try:
                    self._kinds[api_version, kind] = self._client.resources.get(api_version=api_version, kind=kind)
                except (ResourceNotFoundError, ResourceNotUniqueError):
                    return None
            return self._kinds[api_version, kind]

    def _get(self, named: Named) -> dict[str, Any] | None:
        if (resource := self._resource(named.api_version, named.kind)) is None:
            return None
        try:
            return dict(resource.get(name=named.name, namespace=named.namespace, _request_timeout=WITHIN).to_dict())
        except ApiException as refused:
            if refused.status == 404:
                return None
            raise

    def _predicted(self, document: Mapping[str, Any], namespace: str, force: bool) -> dict[str, Any] | Refusal:
        if (resource := self._resource(document["apiVersion"], document["kind"])) is None:
            why = f"the cluster knows no kind {document['kind']} of {document['apiVersion']}"
            return Refusal(why=Why.UNKNOWN_KIND, message=why)
        metadata = document["metadata"]
        try:
            found = resource.server_side_apply(
                body=dict(document),
                name=metadata["name"],
                namespace=(metadata.get("namespace") or namespace) if resource.namespaced else None,
                field_manager=MANAGER,
                dry_run="All",
                force_conflicts=force or None,
                _request_timeout=WITHIN,
            )
        except ApiException as refused:
            if (not_taken := refusal(refused.status or 0, refused.body)) is not None:
                return not_taken
            raise
        return dict(found.to_dict())


def refusal(status: int, body: bytes | str | None) -> Refusal | None:
    """What an answer to a dry run says about the object; None where it says something about the cluster."""
    said = _said(body)
    message = cut(clean_line(str(said.get("message", ""))), 600)
    causes = [cause for cause in (said.get("details") or {}).get("causes") or () if isinstance(cause, dict)]
    fields = tuple(clean_line(str(cause["field"])) for cause in causes if cause.get("field"))
    if status == 409 and any(cause.get("reason") == "FieldManagerConflict" for cause in causes):
        owned = [(_manager(str(cause.get("message", ""))), clean_line(str(cause.get("field", "")))) for cause in causes]
        return Refusal(why=Why.CONFLICT, message=message, fields=fields, conflicts=tuple(sorted(owned)))
    if status in (400, 422) or "failed to create typed patch object" in message:  # the latter comes as a 500
        return Refusal(why=Why.INVALID, message=message, fields=fields)
    if status == 403:
        return Refusal(why=Why.QUOTA if "exceeded quota" in message else Why.FORBIDDEN, message=message)
    if status == 404 and message.startswith("namespaces "):
        return Refusal(why=Why.NO_NAMESPACE, message=message)
    return None


def _manager(message: str) -> str:
    """Of `conflict with "kubectl-edit" using apps/v1`."""
    parts = message.split('"')
    return clean_line(parts[1]) if len(parts) > 2 else "another"


def _said(body: bytes | str | None) -> dict[str, Any]:
    try:
        said = json.loads(body or b"{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


_IN_FILES = ("certificate-authority", "client-certificate", "client-key")


def _in_files(config: Kubeconfig, folder: Path) -> dict[str, Any]:
    """The kubeconfig with its keys in files of this folder. Left to itself, the client keeps one file for each content in the whole
    process: work that ends would take it away from all other work on the same cluster."""
    document: dict[str, Any] = json.loads(json.dumps(dict(config.document)))
    for part in (document["clusters"][0]["cluster"], document["users"][0]["user"]):
        for name in _IN_FILES:
            if data := part.pop(f"{name}-data", None):
                path = folder / name
                path.touch(mode=0o600)
                path.write_bytes(base64.b64decode(data))
                part[name] = str(path)
    return document


class _Bounded(DynamicClient):  # type: ignore[misc]  # it comes without types
    """Discovery itself asks without a limit, and would wait for ever for a cluster that has stopped to answer."""

    def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        return super().request(method, path, body=body, **{"_request_timeout": WITHIN, **params})


def _client_of(config: Kubeconfig, folder: Path) -> DynamicClient:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    client = new_client_from_config_dict(
        _in_files(config, folder), context=CONTEXT, persist_config=False, temp_file_path=str(folder), client_configuration=Configuration()
    )
    return _Bounded(client, cache_file=str(folder / "discovery.json"))


async def _asked(cluster: str, ask: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(_THREADS, ask)
    except ApiException as refused:
        raise _answered(cluster, refused.status or 0, refused.body) from None
    except (urllib3.exceptions.HTTPError, OSError) as away:
        tls = isinstance(away, urllib3.exceptions.SSLError) or "certificate verify failed" in str(away)
        if tls:
            raise ProviderError(
                f"the cluster {cluster} has a certificate that its kubeconfig does not trust; renew the kubeconfig"
            ) from None
        raise Unavailable(f"the cluster {cluster} does not answer; nothing was changed. Ask again, or see `countersign doctor`") from None


def _answered(cluster: str, status: int, body: bytes | str | None) -> CountersignError:
    message = cut(clean_line(str(_said(body).get("message", ""))), 400)
    if status == 401:
        return Unauthenticated(f"the cluster {cluster} does not know the credential of its kubeconfig any more; renew it")
    if status == 403:
        return PermissionDenied(f"the credential of the cluster {cluster} lacks a right: {message}")
    if status in (0, 408, 429) or status >= 500:
        return Unavailable(f"the cluster {cluster} does not answer as it should ({status}): {message}")
    return ProviderError(f"the cluster {cluster} refused: {message}")
