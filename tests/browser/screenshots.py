"""`make screenshots`: the pages for people and the Temporal UI for a run that waits, one that runs and one that failed.

Everything in the pictures happened: a service of its own, real plans and applies of stacks that exist only in their state. Written to
docs/screenshots.
"""

import asyncio
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.acceptance.installed import REPOSITORY, call, eventually, until
from tests.browser.conftest import FLAGS, NAMES, Place, running
from tests.browser.countersign_page import CountersignPage
from tests.browser.temporal_ui import CALM, TemporalUi

OUT = REPOSITORY / "docs" / "screenshots"
SIZE: Any = {"width": 1280, "height": 860}
BEFORE = {"api": {"replicas": 2, "size": "small"}, "web": {"replicas": 1, "size": "small"}}
AFTER = {"api": {"replicas": 3, "size": "large"}, "worker": {"replicas": 1, "size": "small"}}
LONG = """
variable "gate" { type = string }
resource "terraform_data" "table" {
  for_each = toset(["customers", "orders", "payments", "shipments"])
  input    = each.key
}
resource "terraform_data" "backfill" {
  depends_on = [terraform_data.table]
  provisioner "local-exec" { command = "until [ -e ${var.gate} ]; do sleep 0.1; done" }
}
resource "terraform_data" "index" {
  for_each   = toset(["by_customer", "by_day", "by_state"])
  depends_on = [terraform_data.backfill]
  input      = each.key
}
"""
FAILING = """
resource "terraform_data" "snapshot" { input = "orders-2026-11" }
resource "terraform_data" "restore" {
  depends_on = [terraform_data.snapshot]
  provisioner "local-exec" { command = "echo restoring orders-2026-11; echo no space left on the volume >&2; exit 3" }
}
resource "terraform_data" "replica" {
  count      = 2
  depends_on = [terraform_data.restore]
  input      = count.index
}
"""


def stacks(folder: Path) -> None:
    shutil.copytree(REPOSITORY / "infra" / "stacks" / "demo", folder / "shop")
    for name, text in (("reporting", LONG), ("restore", FAILING)):
        (folder / name).mkdir()
        (folder / name / "main.tf").write_text(text)


class Story:
    """Three runs on one service, each where the pictures want it."""

    def __init__(self, place: Place, world: Path) -> None:
        self._place = place
        self._gate = world / "gate"
        place.gates.append(self._gate)

    async def waiting(self) -> str:
        agent, person = self._place.agent, self._place.person
        await self._place.register("shop", "shop", env="prod")
        first = await self._place.ask("shop", env="prod", vars={"services": BEFORE})
        await call(person, "run_approve", run_id=first["run_id"], plan_digest=first["plan_digest"])
        await until(agent, first["run_id"], "applied")
        said = "Larger API for the sale, and the old web tier retires (OPS-412)"
        given = {"services": AFTER, "db_password": "correct horse battery staple"}
        return str((await self._place.ask("shop", env="prod", vars=given, message=said))["run_id"])

    async def applying(self) -> str:
        await self._place.register("reporting", "reporting", gate=str(self._gate))
        run_id = await self._begun("reporting", "Tables for the quarterly report")

        async def half_way() -> bool:
            run = (await self._place.get(run_id))["run"]
            return bool(run["progress"]["done"] >= 4)

        await eventually(half_way, "the apply to be half way")
        return run_id

    async def failed(self) -> str:
        await self._place.register("restore", "restore")
        run_id = await self._begun("restore", "Bring back November's orders")
        await until(self._place.agent, run_id, "partially_applied")
        return run_id

    async def _begun(self, slug: str, message: str) -> str:
        run = await self._place.ask(slug, message=message)
        await call(self._place.person, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"], comment="Read it. Go.")
        return str(run["run_id"])


async def taken(page: Page, name: str) -> None:
    """128 colours are enough for a page, and make a third of the file."""
    OUT.mkdir(parents=True, exist_ok=True)
    shot = Image.open(io.BytesIO(await page.screenshot(animations="disabled")))
    file = OUT / f"{name}.png"
    shot.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"  {file.name}  {file.stat().st_size >> 10} KiB", flush=True)


async def pages(browser: Browser, place: Place, key_file: Path, runs: dict[str, str]) -> None:
    for scheme in ("light", "dark"):
        context = await _context(browser, color_scheme=scheme)
        page = CountersignPage(page=await context.new_page(), it=place.it)
        await page.signed_in(key_file=str(key_file))
        for name, run_id in runs.items():
            if scheme == "light" or name == "waiting":
                await page.open(run_id)
                await expect(page.status).to_be_visible()
                await taken(page.page, f"page-{name}{'-dark' if scheme == 'dark' else ''}")
        if scheme == "light":
            await page.open(runs["waiting"])
            await page.page.locator(".group").nth(1).evaluate("group => group.scrollIntoView()")
            await taken(page.page, "page-changes")
            await page.open()
            await taken(page.page, "page-list")
        assert page.complaints == [], page.complaints
        await context.close()
    narrow = await _context(browser, viewport={"width": 390, "height": 844})
    page = CountersignPage(page=await narrow.new_page(), it=place.it)
    await page.signed_in(key_file=str(key_file), run_id=runs["waiting"])
    await taken(page.page, "page-narrow")
    await narrow.close()


async def temporal(browser: Browser, place: Place, runs: dict[str, str]) -> None:
    context = await _context(browser)
    await context.add_init_script(CALM)
    ui = TemporalUi(page=await context.new_page(), address=place.address)
    ui.page.set_default_timeout(40_000)
    for name, run_id in runs.items():
        await ui.open(run_id)
        await ui.details("prod/shop" if name == "waiting" else "dev/")
        await taken(ui.page, f"temporal-{name}")
    await context.close()


async def _context(browser: Browser, **options: Any) -> BrowserContext:
    context = await browser.new_context(**{"viewport": SIZE, "locale": "en-GB", "timezone_id": "UTC", **options})
    context.set_default_timeout(20_000)
    return context


async def main() -> int:
    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        print("these pictures need a browser: install the package chromium (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    expect.set_options(timeout=20_000)
    with tempfile.TemporaryDirectory(prefix="cs-shots-") as temporary:
        folder = Path(temporary)
        stacks(folder / "stacks")
        async with running(folder / "data", COUNTERSIGN_STACKS=str(folder / "stacks")) as place, async_playwright() as playwright:
            key_file = folder / "bo.key"
            key_file.write_text(place.it.key("person:bo", kind="person", role="admin"))
            story = Story(place, folder)
            runs = {"waiting": await story.waiting(), "failed": await story.failed(), "running": await story.applying()}
            browser = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
            try:
                await pages(browser, place, key_file, runs)
                await temporal(browser, place, runs)
            finally:
                await browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
