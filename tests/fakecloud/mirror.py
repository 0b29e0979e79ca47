"""The fake provider as a package: a filesystem mirror from which Terraform installs it, and the lock file that pins it.

The package is a shell script that starts Python. So lock file, mirror and warm work directories are tested as with a real
provider, and the provider is a child of Terraform that can be killed by itself. Its gRPC is plain: set TF_DISABLE_PLUGIN_TLS.
"""

import base64
import hashlib
import json
import platform
import shlex
import sys
import zipfile
from pathlib import Path

from tests.fakecloud.provider import ADDRESS, VERSION

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"TF_DISABLE_PLUGIN_TLS": "1"}  # what Terraform needs to speak with it
_SYSTEM = {"x86_64": "linux_amd64", "aarch64": "linux_arm64"}[platform.machine()]


def write_mirror(folder: Path) -> str:
    """Write the package below `folder`; returns the text of `.terraform.lock.hcl` for a configuration that uses it."""
    package = folder / ADDRESS / VERSION / _SYSTEM
    package.mkdir(parents=True)
    name = f"terraform-provider-fake_v{VERSION}"
    script = package / name
    script.write_text(
        "#!/bin/sh\n"
        f"PYTHONPATH={shlex.quote(str(ROOT))} PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 "
        f"exec {shlex.quote(sys.executable)} -m tests.fakecloud.provider\n"
    )
    script.chmod(0o755)
    # Go's dirhash "h1": the sum of a list of sums.
    listed = f"{hashlib.sha256(script.read_bytes()).hexdigest()}  {name}\n"
    h1 = base64.b64encode(hashlib.sha256(listed.encode()).digest()).decode()
    return f'provider "{ADDRESS}" {{\n  version     = "{VERSION}"\n  constraints = "{VERSION}"\n  hashes = [\n    "h1:{h1}",\n  ]\n}}\n'


def write_network_mirror(folder: Path, packages: Path) -> None:
    """The package of the mirror in `packages` as a network mirror has it, for any server of files."""
    package = packages / ADDRESS / VERSION / _SYSTEM
    served = folder / ADDRESS
    served.mkdir(parents=True)
    archive = served / f"fake_{VERSION}_{_SYSTEM}.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted(package.iterdir()):
            entry = zipfile.ZipInfo(file.name)
            entry.external_attr = 0o755 << 16
            packed.writestr(entry, file.read_bytes())
    (served / "index.json").write_text(json.dumps({"versions": {VERSION: {}}}))
    (served / f"{VERSION}.json").write_text(json.dumps({"archives": {_SYSTEM: {"url": archive.name}}}))
