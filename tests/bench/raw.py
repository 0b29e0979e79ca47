"""The floor: `init`, `plan -out`, `apply` by hand, with the executable, environment and providers that Countersign uses."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from countersign.adapters.terraform.executable import Executable, resolve

OVERRIDE = 'terraform {\n  backend "http" {}\n}\n'


@dataclass
class Raw:
    """Runs of the raw tool against a free in-memory backend."""

    port: int
    executable: Executable
    _count: int = 0

    def run(self, source: Path, *, go_settings: Mapping[str, str]) -> float:
        """Seconds for the three commands in a fresh folder on a fresh state."""
        self._count += 1
        address = f"http://127.0.0.1:{self.port}/{source.name}-{self._count}-{time.monotonic_ns()}"
        with tempfile.TemporaryDirectory(prefix="cs-raw-") as folder:
            work = Path(folder) / "work"
            shutil.copytree(source, work, ignore=shutil.ignore_patterns(".terraform"))
            (work / "zzz_override.tf").write_text(OVERRIDE)
            config = Path(folder) / "engine.tfrc"
            config.write_text("disable_checkpoint = true\n")
            environment = {
                **go_settings,
                "PATH": os.environ["PATH"],
                "HOME": folder,
                "TMPDIR": folder,
                "LANG": "C.UTF-8",
                "TF_IN_AUTOMATION": "1",
                "TF_INPUT": "0",
                "CHECKPOINT_DISABLE": "1",
                "TF_CLI_CONFIG_FILE": str(config),
                **{f"TF_HTTP_{name}ADDRESS": address for name in ("", "LOCK_", "UNLOCK_")},
            }
            begun = time.perf_counter()
            for arguments in (
                ["init", "-input=false", "-no-color", "-json"],
                ["plan", "-input=false", "-no-color", "-json", "-out=plan.tfplan"],
                ["apply", "-input=false", "-no-color", "-json", "plan.tfplan"],
            ):
                done = subprocess.run([*self.executable.prefix, *arguments], cwd=work, env=environment, capture_output=True, check=False)
                if done.returncode != 0:
                    raise SystemExit(f"the raw run failed: {done.stdout.decode()[-2000:]}{done.stderr.decode()[-2000:]}")
            return time.perf_counter() - begun


@contextlib.contextmanager
def raw() -> Iterator[Raw]:
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.backend", "0"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        yield Raw(port=port, executable=resolve("terraform", configured=None, search_path=os.environ["PATH"]))
    finally:
        process.terminate()
        process.wait(10)
