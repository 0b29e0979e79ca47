"""What a kubelet would do with a pod of ours, on this machine: its command, environment, mounts and probes, as processes.

Simulated pods run nothing, so this is where it shows that what a chart renders starts and serves. Paths of mounts lead into a
folder for each pod, names of Services to the loopback; a container inherits nothing else of its surroundings, and no capability.
Not here: users, limits, and a root file system that is read-only.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.kubernetes.plane import eventually

Object = dict[str, Any]
PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"  # of the image
PATIENCE = 60.0
# It ends with us, also where we are killed. Without capabilities root is a user like others, who keeps to the modes of files.
UNPRIVILEGED = ("setpriv", "--pdeathsig", "KILL", *(() if os.geteuid() else ("--bounding-set=-all", "--inh-caps=-all")), "--")


@dataclass
class Node:
    """`made`: what a chart rendered; `secrets` are those it only refers to; `folder` keeps claims, as storage does."""

    folder: Path
    made: Sequence[Object]
    secrets: Mapping[str, Mapping[str, str]]

    def find(self, kind: str, name: str) -> Object:
        [found] = [document for document in self.made if document["kind"] == kind and document["metadata"]["name"] == name]
        return found

    def pod(self, kind: str, name: str) -> "Pod":
        """The first pod of a Deployment, StatefulSet or Job."""
        owner = self.find(kind, name)
        spec = dict(owner["spec"]["template"]["spec"])
        claims = [
            {"name": c["metadata"]["name"], "persistentVolumeClaim": {"claimName": f"{c['metadata']['name']}-{name}-0"}}
            for c in owner["spec"].get("volumeClaimTemplates", ())
        ]
        return Pod(node=self, name=name, spec={**spec, "volumes": [*spec.get("volumes", ()), *claims]})

    def services(self) -> list[str]:
        return [document["metadata"]["name"] for document in self.made if document["kind"] == "Service"]

    def entries(self, volume: Object) -> dict[str, str]:
        """The files of a Secret or ConfigMap in a volume."""
        if "configMap" in volume:
            return dict(self.find("ConfigMap", volume["configMap"]["name"])["data"])
        data = self.secrets[volume["secret"]["secretName"]]
        items = volume["secret"].get("items")
        return {item["path"]: data[item["key"]] for item in items} if items else dict(data)


@dataclass
class Pod:
    node: Node
    name: str
    spec: Object
    _process: "subprocess.Popen[bytes] | None" = None
    _root: Path = field(init=False)

    def __post_init__(self) -> None:
        self._root = self.node.folder / "pods" / self.name
        [self.container] = self.spec["containers"]

    # Its life

    def start(self) -> "Pod":
        self._forget()
        sources = {volume["name"]: self._source(volume) for volume in self.spec["volumes"]}
        # The folder a mount lies in is mounted before it.
        for mount in sorted(self.container["volumeMounts"], key=lambda mount: len(mount["mountPath"])):
            source, target = sources[mount["name"]], self._at(mount["mountPath"])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(source / mount["subPath"] if "subPath" in mount else source)
        with self._log.open("ab") as log:
            words = [*UNPRIVILEGED, *self._words(self.container["command"])]
            self._process = subprocess.Popen(
                words, env=self.environment, cwd=self._root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def _forget(self) -> None:
        """Whatever is no claim ends with a pod."""
        if self._root.exists():
            for place in (*self._root.glob("volumes/*"), *self._root.glob("volumes/*/..data")):
                place.chmod(0o755)
            shutil.rmtree(self._root)

    def _source(self, volume: Object) -> Path:
        if "persistentVolumeClaim" in volume:
            kept = self.node.folder / "claims" / volume["persistentVolumeClaim"]["claimName"]
            kept.mkdir(parents=True, exist_ok=True)
            return kept
        place = self._root / "volumes" / volume["name"]
        place.mkdir(parents=True, exist_ok=True)
        if "emptyDir" not in volume:
            data = place / "..data"  # files of Secrets and ConfigMaps are links, so that all of them change at once
            data.mkdir()
            for file, content in self.node.entries(volume).items():
                (data / file).write_text(content)
                (data / file).chmod(0o440)
                (place / file).symlink_to(Path("..data") / file)
            data.chmod(0o555)
            place.chmod(0o555)
        return place

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _words(self, words: Sequence[str]) -> list[str]:
        return [self._here(word) for word in words]

    def _here(self, text: str) -> str:
        """A value with paths below mounts, and names of Services, as they are on this machine."""
        mounts = [mount["mountPath"] for mount in self.container["volumeMounts"]]
        if any(text == path or text.startswith(f"{path}/") for path in mounts):
            return str(self._at(text))
        for name in self.node.services():
            text = text.replace(f"//{name}:", "//127.0.0.1:")
        return text

    @property
    def environment(self) -> dict[str, str]:
        found = {"PATH": PATH}
        for source in self.container.get("envFrom", ()):
            found |= self.node.secrets[source["secretRef"]["name"]]
        for entry in self.container["env"]:
            if "value" in entry:
                found[entry["name"]] = self._here(entry["value"])
            else:
                wanted = entry["valueFrom"]["secretKeyRef"]
                found[entry["name"]] = self.node.secrets[wanted["name"]][wanted["key"]]
        return found

    @property
    def _log(self) -> Path:
        (self.node.folder / "logs").mkdir(parents=True, exist_ok=True)
        return self.node.folder / "logs" / f"{self.name}.log"

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    @property
    def code(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ends(self, within: float = PATIENCE) -> int:
        """Its exit code, when it ends by itself."""
        assert self._process is not None
        try:
            code = self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end:\n{self.log()}") from None
        self._end_what_is_left()
        return code

    def terminate(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """As a kubelet does: SIGTERM, and the grace its pod asks for, of which a test grants a minute."""
        self.terminate()
        return self.ends(min(float(self.spec.get("terminationGracePeriodSeconds", 30)), PATIENCE))

    def kill(self) -> None:
        """kill -9 of its first process."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        self._end_what_is_left()

    def _end_what_is_left(self) -> None:
        """Nothing of a container outlives its first process; which ones are of it is told by where they work."""
        claims = [volume["persistentVolumeClaim"]["claimName"] for volume in self.spec["volumes"] if "persistentVolumeClaim" in volume]
        places = (self._root, *(self.node.folder / "claims" / claim for claim in claims if self.name in claim))
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid() and any(_works_in(entry, place) for place in places):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)

    # What is asked of it

    def probe(self, which: str) -> bool:
        """What one look says: readinessProbe, livenessProbe or startupProbe."""
        wanted = self.container[which]["httpGet"]
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        address = f"http://127.0.0.1:{ports.get(wanted['port'], wanted['port'])}{wanted['path']}"
        try:
            return 200 <= httpx2.get(address, timeout=self.container[which].get("timeoutSeconds", 1)).status_code < 400
        except httpx2.HTTPError:
            return False

    def becomes_ready(self) -> float:
        """Started, then ready, then live; seconds that took. Fails with its log where it ends, or takes longer than it may."""
        began = time.monotonic()
        for which in ("startupProbe", "readinessProbe", "livenessProbe"):
            eventually(lambda which=which: self._passes(which), f"the {which} of {self.name} to pass; it said:\n{self.log()}", PATIENCE)
        return time.monotonic() - began

    def _passes(self, which: str) -> bool:
        assert self.code is None, f"{self.name} ended with {self.code}:\n{self.log()}"
        return self.probe(which)

    def exec(self, *words: str, stdin: str | None = None, code: int = 0) -> str:
        """What a command in the container prints, as `kubectl exec` gives it; what it complains about where it has to fail."""
        done = subprocess.run(
            [*UNPRIVILEGED, *self._words(words)],
            env=self.environment,
            cwd=self._root,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == code, f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if code else done.stdout


def _works_in(entry: Path, place: Path) -> bool:
    try:
        return (entry / "cwd").readlink().is_relative_to(place)
    except OSError:
        return False
