"""The Temporal Web UI as an operator uses it: what is clicked, typed, copied and read.

Nothing here speaks to Temporal or to the service but through that page. Every wait is bounded; elements are found by role,
label or the UI's own test ids, of which several copies may stand in a page for different widths.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote

from playwright.async_api import Locator, Page, expect

from tests.acceptance.installed import eventually

# What moves and shimmers costs seconds where it is drawn without a graphics card, and tells nothing.
CALM = """
addEventListener("DOMContentLoaded", () => {
  const calm = new CSSStyleSheet()
  calm.replaceSync("*, *::before, *::after, *::backdrop { transition: none !important; animation: none !important;" +
    " filter: none !important; backdrop-filter: none !important; box-shadow: none !important }")
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, calm]
})
"""

# The status too: a workflow that was terminated keeps its last state.
WAITING = 'CsState="awaiting_approval" AND ExecutionStatus="Running"'
VIEW = "Waiting for approval"
PATIENCE = 20.0  # seconds; a bound for a busy machine
SLOW = 2 * PATIENCE * 1000  # milliseconds, for what a worker has to answer first


@dataclass(frozen=True, kw_only=True)
class TemporalUi:
    page: Page
    address: str
    namespace: str = "default"

    # The list of runs

    async def runs_that_wait(self) -> None:
        """Open the filtered list by the link that also keeps it as a saved view of this browser."""
        await self.page.goto(f"{self._root}?query={quote(WAITING)}&savedQuery={quote(VIEW)}")
        await expect(self.page.get_by_role("button", name=VIEW)).to_be_visible()

    async def show_columns(self, *wanted: str, instead_of: tuple[str, ...] = ()) -> None:
        """Once per browser: the UI keeps columns there, and nowhere else."""
        await self.page.get_by_role("button", name="Configure Columns").click()
        for column in instead_of:
            await self.page.get_by_role("button", name=f"Remove {column} column").click()
        for column in wanted:
            await self.page.get_by_role("button", name=f"Add {column} column").click()
        await self.page.get_by_role("button", name="Close Workflows Table configuration").click()

    async def rows(self) -> list[dict[str, str]]:
        """What the list shows now, by the names of its columns."""
        names = [name.strip() for name in await self.page.get_by_role("columnheader").all_inner_texts()]
        found = []
        for row in await self.page.get_by_test_id("workflows-summary-configurable-table-row").all():
            cells = [cell.strip() for cell in await row.get_by_test_id("workflows-summary-table-body-cell").all_inner_texts()]
            found.append(dict(zip(names[-len(cells) :], cells, strict=True)))
        return found

    async def row_of(self, run_id: str) -> dict[str, str]:
        async def listed() -> dict[str, str] | None:
            return next((row for row in await self.rows() if row.get("Workflow ID") == run_id), None)

        row: dict[str, str] = await eventually(listed, f"{run_id} in the list", PATIENCE)
        return row

    # The page of a run

    async def open(self, run_id: str) -> None:
        """The newest workflow of the run, as a link to it opens."""
        await self.page.goto(f"{self._root}/{run_id}")
        await expect(self.page.get_by_role("heading", name=run_id)).to_be_visible()

    @property
    def workflow(self) -> str:
        """Which workflow of the run is open: a reset begins another."""
        return re.search(r"/workflows/[^/]+/([^/?]+)", self.page.url)[1]  # type: ignore[index]

    async def status(self) -> str:
        """running, completed, terminated …"""
        return (await self.page.get_by_test_id("execution-status").first.inner_text()).strip().lower()

    async def ends(self, status: str) -> None:
        """Wait until the page says that this workflow is "completed", "terminated" …; by itself it may not look again."""

        async def ended() -> bool:
            if await self.status() == status:
                return True
            await self.page.reload()
            return False

        await eventually(ended, f"the workflow to be shown as {status}", 2 * PATIENCE)

    async def details(self, *words: str) -> str:
        """The current details, looked at again with the key R until they say all of `words`."""
        await self._tab("User Metadata")
        frame = self._frame("current-details")

        async def said() -> str | None:
            if await frame.count():
                text = tight(await frame.inner_text())
                if all(word in text for word in words) and text:
                    return text
            await self.page.keyboard.press("r")
            await self.page.wait_for_timeout(300)
            return None

        text: str = await eventually(said, f"the run's details to say {words}", 2 * PATIENCE)
        return text

    async def standing_details(self) -> str:
        """What stands there whether a worker is up or not."""
        await self._tab("User Metadata")
        return tight(await self._frame("details").inner_text())

    async def under_way(self, step: str, words: str) -> None:
        """Wait until the step is listed as pending, saying `words` with its heartbeat."""
        await self._tab("Pending Activities")

        async def said() -> bool:
            try:
                await expect(self.page.get_by_role("main")).to_contain_text(words, timeout=5000)
            except AssertionError:
                await self.page.reload()
                return False
            return step in await self.page.get_by_role("main").inner_text()

        await eventually(said, f"{step} to say {words}", 2 * PATIENCE)

    async def copy_json(self, holding: str) -> None:
        """Three clicks on the JSON that holds `holding`, and Ctrl-C."""
        await self._tab("User Metadata")
        alone = self._frame("current-details").locator("p", has_text=re.compile(r"^\s*\{.*\}\s*$"))
        await alone.filter(has_text=holding).click(click_count=3)
        await self.page.keyboard.press("ControlOrMeta+c")

    # What is sent to it

    async def update(self, name: str, data: str | None) -> str | None:
        """Send an Update with `data`, or with what was copied; the reason told in the dialog where it is refused."""
        return await self._send("Send an Update", name, data)

    async def signal(self, name: str, data: str | None) -> str | None:
        refused = await self._send("Send a Signal", name, data)
        if refused is None:
            # While this still shows, the UI is stuck over the next signal (UI 2.54: two messages under one key).
            await expect(self.page.locator("#workflow-signal-success-toast")).to_have_count(0)
        return refused

    async def offers(self, what: str) -> dict[str, str]:
        """The names the dialog offers, with what it says about each."""
        dialog = await self._dialog(what)
        await self._choices(dialog).click(timeout=SLOW)
        await expect(dialog.get_by_role("option").first).to_be_visible()
        texts = [option.split("\n") for option in await dialog.get_by_role("option").all_inner_texts()]
        await dialog.get_by_test_id("cancel-modal-button").click()
        return {lines[0].strip(): " ".join(lines[1:]).strip() for lines in texts}

    async def terminate(self, reason: str) -> None:
        dialog = await self._dialog("Terminate")
        await dialog.get_by_role("textbox", name="Reason").fill(reason)
        await self._confirm(dialog, "Terminate")

    async def reset(self, reason: str) -> None:
        """To the first event one can reset to, from which all is played again; then look at the workflow this begins."""
        before = self.workflow
        await self._tab("Timeline")  # elsewhere steps have a button of that name too
        if await self.status() == "running":
            dialog = await self._dialog("Reset")
        else:
            await self.page.get_by_role("button", name="Reset", exact=True).click()
            dialog = self._opened()
        await dialog.get_by_test_id("workflow-reset-event-id-select-button").click()
        await dialog.get_by_role("option").last.click()
        await dialog.get_by_role("textbox", name="Reason").fill(reason)
        await self._confirm(dialog, "Confirm")
        await self.page.get_by_test_id("workflow-reset-alert").get_by_role("link").click()

        async def begun() -> bool:
            return self.workflow != before

        await eventually(begun, "the workflow that the reset begins", PATIENCE)

    async def request_cancellation(self) -> None:
        await self.page.get_by_role("button", name="Request Cancellation").click()
        await self._confirm(self._opened(), "Confirm")

    # Means

    @property
    def _root(self) -> str:
        return f"{self.address}/namespaces/{self.namespace}/workflows"

    async def _tab(self, name: str) -> None:
        tab = self.page.get_by_role("tab", name=name)
        if await tab.get_attribute("aria-selected") != "true":
            await tab.click()

    def _frame(self, part: str) -> Locator:
        return self.page.frame_locator(f"#user-metadata-{part}").locator("main")

    def _opened(self) -> Locator:
        return self.page.locator("dialog[open]")

    async def _dialog(self, what: str) -> Locator:
        await self.page.get_by_role("button", name="More Actions").click()
        await self.page.get_by_role("menuitem", name=what, exact=True).click()
        await expect(self._opened()).to_be_visible()
        return self._opened()

    def _choices(self, dialog: Locator) -> Locator:
        # Until the worker has told what it takes, the dialog offers a field for any name.
        return dialog.get_by_role("button", name=re.compile("^Name|Select a"))

    async def _send(self, what: str, name: str, data: str | None) -> str | None:
        dialog = await self._dialog(what)
        await self._choices(dialog).click(timeout=SLOW)
        await dialog.get_by_role("option", name=re.compile(f"^{name}")).click()
        await dialog.locator(".cm-content").click()
        await self.page.keyboard.press("ControlOrMeta+a")
        if data is None:
            await self.page.keyboard.press("ControlOrMeta+v")
        elif data:
            await self.page.keyboard.insert_text(data)
        return await self._confirm(dialog, "Submit")

    async def _confirm(self, dialog: Locator, button: str) -> str | None:
        """None where the dialog closes, as it does when all went well; else what it says."""
        # With the keyboard: the editor lays the JSON out anew when it is left, and a click on what moves then is lost.
        await dialog.get_by_role("button", name=button, exact=True).press("Enter")

        async def answered() -> str | None:
            if not await dialog.count():
                return "closed"
            told = [text.strip() for text in await dialog.get_by_role("alert").all_inner_texts() if text.strip()]
            return f"refused {' '.join(told)}" if told else None

        answer: str = await eventually(answered, f"an answer to {button}", 2 * PATIENCE)
        if answer == "closed":
            return None
        await dialog.get_by_test_id("cancel-modal-button").click()
        await expect(dialog).to_have_count(0)
        return answer.removeprefix("refused ")


def tight(text: str) -> str:
    """Without the gaps the UI makes between paragraphs, and with apostrophes as they were written."""
    return re.sub(r"\n{2,}", "\n", text).replace("’", "'").strip()
