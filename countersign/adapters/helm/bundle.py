"""The bundle of a release's plan: what helm is told, in one piece whose hash people approved.

A tar of what to do (`meta.json`), the chart's archive, the values, and what must be hidden. Equal content gives equal bytes. Values are in
clear: it is sealed by the caller and unpacked into an attempt's private folder only.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from countersign.adapters import private
from countersign.core.engine import Release
from countersign.core.errors import FailedPrecondition
from countersign.core.helm.recovery import Action, Expected
from countersign.core.model import Payload

META, CHART, VALUES, SECRETS = "meta.json", "chart.tgz", "values.json", "secrets.json"


class Object(Payload):
    """One object that the release has, had, or makes: as the API finds it."""

    address: str
    api_version: str
    kind: str
    namespace: str | None = None
    name: str
    action: str = "no-op"  # what is approved to be done with it


class Meta(Payload):
    v: Literal["countersign.helm-bundle/1"] = "countersign.helm-bundle/1"
    engine_build: str
    action: Action
    env: str
    namespace: str
    name: str
    cluster: str  # uid of its kube-system namespace
    server: str
    base: int  # newest revision there was; 0: none
    base_status: str = ""
    run: str
    to: int | None = None  # of a rollback
    chart: str | None = None  # digest of the archive
    chart_name: str = ""
    chart_version: str = ""
    chart_source: str = ""
    force_conflicts: bool = False
    run_tests: bool = False
    keep_history: bool = False
    timeout: int = 300
    history_max: int = 10
    live: Mapping[str, str] = {}  # address → mark of the object that was planned with
    objects: tuple[Object, ...] = ()  # of the target and of what is removed
    hooks: tuple[Object, ...] = ()
    hook_marks: Mapping[str, str] = {}  # address → mark, of hooks' objects that were there

    @property
    def release(self) -> Release:
        return Release(namespace=self.namespace, name=self.name)

    def expected(self, recovering: tuple[int, ...] = ()) -> Expected:
        return Expected(action=self.action, base=self.base, base_status=self.base_status, run=self.run, to=self.to, recovering=recovering)

    def argv(self, helm: Path, folder: Path) -> list[str]:
        """What helm is told. Values are in a file: arguments can be read by everybody on the machine."""
        where = ["-n", self.namespace, "--kubeconfig", str(folder / "kubeconfig")]
        waits = ["--wait", "--timeout", f"{self.timeout}s"]
        history = ["--wait-for-jobs", "--history-max", str(self.history_max)]
        forced = ["--force-conflicts"] if self.force_conflicts else []
        match self.action:
            case Action.DEPLOY:
                # Without --reset-values empty values would mean those of the release before.
                told = [
                    "upgrade",
                    self.name,
                    str(folder / CHART),
                    "--install",
                    "--reset-values",
                    "-f",
                    str(folder / VALUES),
                    "--hide-notes",
                ]
                told += ["--rollback-on-failure", "--labels", f"countersign-run={self.run}", *history, *forced]
            case Action.ROLLBACK:
                told = ["rollback", self.name, str(self.to), *history, *forced]
            case Action.UNINSTALL:
                told = ["uninstall", self.name, *(["--keep-history"] if self.keep_history else [])]
        return [str(helm), *told, *waits, *where]


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    meta: Meta
    secrets: frozenset[str] = field(repr=False)
    values: Any = field(repr=False, default=None)
    chart: bytes | None = field(repr=False, default=None)


def pack(meta: Meta, *, chart: bytes | None, values: Any, secrets: Iterable[str]) -> bytes:
    parts = {META: meta.model_dump_json().encode(), SECRETS: json.dumps(sorted(secrets)).encode()}
    if chart is not None:
        parts |= {CHART: chart, VALUES: json.dumps(values, sort_keys=True).encode()}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o600, 0
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read(data: bytes) -> Unpacked:
    """Raises FailedPrecondition if it is none, or its chart is not the one that was planned."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            parts = {m.name: content.read() for m in tar if m.isreg() and (content := tar.extractfile(m)) is not None}
        meta = Meta.model_validate_json(parts[META])
        secrets = frozenset(map(str, json.loads(parts[SECRETS])))
        values = json.loads(parts[VALUES]) if VALUES in parts else None
    except (tarfile.TarError, OSError, KeyError, ValueError, ValidationError):
        raise FailedPrecondition("the plan's bundle cannot be read; plan again") from None
    chart = parts.get(CHART)
    if meta.chart is not None and (chart is None or "sha256:" + hashlib.sha256(chart).hexdigest() != meta.chart):
        raise FailedPrecondition("the chart in the bundle is not the one that was planned; plan again")
    return Unpacked(meta=meta, secrets=secrets, values=values, chart=chart)


def unpack(data: bytes, folder: Path) -> Meta:
    """Chart, values and what is to be hidden, as private files in `folder`."""
    found = read(data)
    private.write(folder / META, found.meta.model_dump_json().encode())
    private.write(folder / SECRETS, json.dumps(sorted(found.secrets)).encode())
    if found.chart is not None:
        private.write(folder / CHART, found.chart)
        private.write(folder / VALUES, json.dumps(found.values).encode())
    return found.meta


def secrets_in(folder: Path) -> frozenset[str]:
    """Of an unpacked bundle."""
    return frozenset(map(str, json.loads((folder / SECRETS).read_bytes())))
