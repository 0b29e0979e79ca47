"""The pages for people as a person uses them, in a real browser: what is clicked, typed and read.

Elements are found by role and label, as who uses a screen reader finds them. Whatever the browser complains about, a policy that was
broken or a script that failed, is collected, and a test ends by looking that there is nothing.
"""

import json
from dataclasses import dataclass, field

from playwright.async_api import ConsoleMessage, Locator, Page, expect

from tests.acceptance.installed import Installed


@dataclass(kw_only=True)
class CountersignPage:
    page: Page
    it: Installed
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self._failed(request.url, str(request.failure)))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} at {message.location}")

    def _failed(self, url: str, why: str) -> None:
        if "ERR_ABORTED" not in why:  # a page that was left while it waited for news
            self.complaints.append(f"{url}: {why}")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.it.front_port}"

    async def signed_in(self, *, key_file: str, run_id: str | None = None) -> None:
        """With `countersign open`, as on a person's own machine."""
        words = ["open", *([run_id] if run_id else []), "--key-file", key_file, "--json"]
        await self.page.goto(json.loads(self.it.cli(*words))["url"])
        await expect(self.page.get_by_role("button", name="Sign in as")).to_be_focused()
        await self.page.keyboard.press("Enter")
        await expect(self.page.get_by_role("button", name="Sign out")).to_be_visible()

    async def open(self, run_id: str | None = None) -> None:
        await self.page.goto(f"{self.address}/runs/{run_id}" if run_id else f"{self.address}/runs")

    @property
    def status(self) -> Locator:
        """What is read out when it changes."""
        return self.page.get_by_role("region", name="Where it stands").get_by_role("status")

    def region(self, name: str) -> Locator:
        return self.page.get_by_role("region", name=name)

    async def tab_to(self, target: Locator, *, longest: int = 80) -> None:
        """With the Tab key alone."""
        for _ in range(longest):
            if await target.evaluate("element => element === document.activeElement"):
                return
            await self.page.keyboard.press("Tab")
        raise AssertionError(f"{target} is not reached with {longest} presses of Tab")
