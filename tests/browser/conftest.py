"""A browser, and services on ports of their own: one that trusts its Temporal UI, and on demand those that do not."""

import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from playwright.async_api import Browser, async_playwright, expect

from tests.acceptance.installed import REPOSITORY, Installed, call, eventually, processes, until
from tests.browser.temporal_ui import CALM, PATIENCE, TemporalUi

STACKS = REPOSITORY / "tests" / "stacks"
ENVIRONMENTS = [{"slug": "local", "environments": [{"slug": "dev"}, {"slug": "prod", "protected": True}]}]
NAMES = ("chromium", "chromium-browser", "google-chrome")
# Also as root, on a machine without a screen; nothing of it looks for news of its own.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_REPORT = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_REPORT] = report
    return report


@dataclass(frozen=True, kw_only=True)
class Place:
    """A running service, an agent that asks and a person who reads."""

    it: Installed
    agent: Client
    person: Client
    gates: list[Path] = field(default_factory=list)  # where applies wait; a test that fails leaves its own closed

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.it.temporal_ui_port}"

    async def register(self, slug: str, path: str = "small", env: str = "dev", **variables: Any) -> None:
        given = {"vars": variables} if variables else {}
        await call(self.agent, "terraform_register_workspace", env=env, workspace=slug, source={"path": path}, **given)

    async def ask(self, slug: str, *, tool: str = "apply_terraform", env: str = "dev", **more: Any) -> dict[str, Any]:
        """A run that waits for approval."""
        started = await call(self.agent, tool, env=env, workspace=slug, wait_seconds=25, **more)
        run: dict[str, Any] = started["run"]
        assert run["state"] == "awaiting_approval", run
        return run

    async def applied(self, slug: str, **variables: Any) -> None:
        """What the stack is before the test begins."""
        run = await self.ask(slug, **({"vars": variables} if variables else {}))
        await call(self.person, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
        await until(self.agent, run["run_id"], "applied")

    def engines(self) -> list[int]:
        """Terraform processes that apply for this service."""
        data = str(self.it.data)
        return sorted(pid for pid, argv in processes() if "apply" in argv and any(data in part for part in argv) and "/bin/sh" not in argv)

    async def open_gates(self) -> None:
        for gate in self.gates:
            gate.touch()

        async def idle() -> bool:
            return self.engines() == []

        await eventually(idle, f"the applies to end: {self.engines()}", PATIENCE)

    async def get(self, run_id: str, *, include: tuple[str, ...] = ()) -> dict[str, Any]:
        return await call(self.agent, "run_get", run_id=run_id, include=list(include))


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        pytest.fail("these tests need a browser: install the package chromium (Debian: apt-get install chromium)", pytrace=False)
    expect.set_options(timeout=PATIENCE * 1000)
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield opened
        await opened.close()


@contextlib.asynccontextmanager
async def running(data: Path, **settings: str) -> AsyncIterator[Place]:
    it = Installed(data=data, stacks=STACKS, settings={"COUNTERSIGN_ORGANIZATIONS": json.dumps(ENVIRONMENTS), **settings})
    it.start()
    try:
        await it.ready()
        agent_key = it.key("agent:claude", acts_for="person:ana")
        person_key = it.key("person:bo", kind="person", role="approver")
        async with it.client(agent_key) as agent, it.client(person_key) as person:
            place = Place(it=it, agent=agent, person=person)
            try:
                yield place
            finally:
                await place.open_gates()
    finally:
        it.stop()


@pytest.fixture(scope="module")
async def trusted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """The default of the embedded Temporal: who reaches its UI is an operator."""
    async with running(tmp_path_factory.mktemp("trusted") / "data") as place:
        yield place


@pytest.fixture(params=["off", "verified"])
async def untrusted(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with running(tmp_path / "data", COUNTERSIGN_UI_APPROVALS=request.param) as place:
        yield place


Visit = Callable[[Place], Awaitable[TemporalUi]]


@pytest.fixture
async def visit(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> AsyncIterator[Visit]:
    """Open the Temporal UI of a place in a browser nobody used before. What a failed test saw is kept as a picture."""
    context = await browser.new_context(viewport={"width": 1400, "height": 1000}, permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE * 1000)
    await context.add_init_script(CALM)
    page = await context.new_page()

    async def opened(place: Place) -> TemporalUi:
        return TemporalUi(page=page, address=place.address)

    try:
        yield opened
    finally:
        report = request.node.stash.get(_REPORT, None)
        if report is not None and report.failed:
            picture = tmp_path / "failed.png"
            await page.screenshot(path=picture, full_page=True)
            report.sections.append(("the Temporal UI then", f"{page.url}\n{picture}"))
        await context.close()
