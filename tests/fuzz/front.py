"""`countersign front` alone in a process of its own, with a store that holds secrets nobody may ever see. No Temporal answers it."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.installed import free_ports

COMMAND = Path(sys.executable).with_name("countersign")
CANARIES = ("c4naryS3cretValue", "c4nary-hidden-stack", "c4nary-hidden-person")  # a sealed value, and what another organization has
SETTINGS = """
[[organizations]]
slug = "local"
environments = [{slug = "dev"}, {slug = "prod", protected = true}]

[[organizations]]
slug = "hidden"

[limits]
requests_per_minute = 10000000
"""


@dataclass
class Front:
    data: Path
    port: int
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes]"
    agent: str = ""  # a key of the role platform
    admin: str = ""

    def cli(self, *words: str, stdin: str | None = None) -> dict[str, Any]:
        done = subprocess.run(
            [str(COMMAND), *words, "--json"], env=self.environment, input=stdin, capture_output=True, text=True, timeout=60, check=True
        )
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def memory(self) -> float:
        """MiB that belong to the process alone."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the kernel does not tell")

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """As a client of the newest version of the protocol does."""
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments, "_meta": meta}}
        headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool}
        _, said = self._post(self.admin, body, headers)
        result: dict[str, Any] = json.loads(said)["result"]["structuredContent"]
        return result

    def session(self, key: str) -> str:
        """A session of the era before, opened and ready."""
        version, client = "2025-11-25", {"name": "fuzz", "version": "1"}
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": client}
        opened, _ = self._post(key, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}, {})
        session = opened["mcp-session-id"]
        self._post(
            key, {"jsonrpc": "2.0", "method": "notifications/initialized"}, {"MCP-Protocol-Version": version, "Mcp-Session-Id": session}
        )
        return session

    def _post(self, key: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
        own = {"Authorization": f"Bearer {key}", "Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("POST", "/mcp", json.dumps(body), own | headers)
            response = connection.getresponse()
            said = response.read()
        assert response.status in (200, 202), (response.status, said)
        return {name.lower(): value for name, value in response.getheaders()}, said


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


@contextlib.contextmanager
def front(folder: Path) -> Iterator[Front]:
    data = folder / "data"
    data.mkdir(mode=0o700)
    (data / "countersign.toml").write_text(SETTINGS)
    port, temporal, state = free_ports(3)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COUNTERSIGN_")},
        "COUNTERSIGN_DATA": str(data),
        "COUNTERSIGN_FRONT_PORT": str(port),
        "COUNTERSIGN_STATE_PORT": str(state),
        "COUNTERSIGN_TEMPORAL_PORT": str(temporal),
        "COUNTERSIGN_STACKS": str(folder / "stacks"),
    }
    log = folder / "front.log"
    with log.open("wb") as out:
        process = subprocess.Popen([str(COMMAND), "front"], env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    it = Front(data=data, port=port, environment=environment, log=log, process=process)
    try:
        until = time.monotonic() + 60
        while not listens(port):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        it.cli("secret", "set", "shared", stdin=CANARIES[0])
        keys = {"agent": ("agent", "platform"), "admin": ("person", "admin")}
        for name, (kind, role) in keys.items():
            setattr(it, name, it.cli("key", "create", "--as", name, "--kind", kind, "--role", role)["key"])
        hidden = it.cli("key", "create", "--as", CANARIES[2], "--kind", "person", "--role", "admin", "--org", "hidden")["key"]
        own, it.admin = it.admin, hidden
        it.call("terraform_register_workspace", env="dev", workspace=CANARIES[1], source={"path": "x"})
        it.admin = own
        for workspace in ("main", "shop"):
            it.call(
                "terraform_register_workspace", env="dev", workspace=workspace, source={"path": workspace}, vars={"p": {"secret": "shared"}}
            )
        yield it
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
