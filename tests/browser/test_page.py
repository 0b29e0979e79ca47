"""The pages for people in a real browser: signed in from a terminal, read, decided with the keyboard, and followed while they move."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Request, expect

from tests.acceptance.installed import call, eventually, until
from tests.browser.conftest import Place
from tests.browser.countersign_page import CountersignPage
from tests.browser.temporal_ui import PATIENCE
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
Opened = Callable[..., Awaitable[CountersignPage]]


@pytest.fixture
async def opened(browser: Browser, trusted: Place) -> AsyncIterator[Opened]:
    """A browser nobody used before, on the pages of the service; in the end it had nothing to complain about."""
    async with contextlib.AsyncExitStack() as stack:
        pages: list[CountersignPage] = []

        async def made(**options: Any) -> CountersignPage:
            context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
            stack.push_async_callback(context.close)
            context.set_default_timeout(PATIENCE * 1000)
            pages.append(CountersignPage(page=await context.new_page(), it=trusted.it))
            return pages[-1]

        yield made
        assert [complaint for page in pages for complaint in page.complaints] == []


@pytest.fixture
def key_file(trusted: Place, tmp_path: Path) -> str:
    file = tmp_path / "bo.key"
    file.write_text(trusted.it.key("person:bo", kind="person", role="approver"))
    return str(file)


@requirement("page:keyboard", "page:open", "promise:destroying-asks")
async def test_what_destroys_is_read_and_approved_by_keyboard_with_the_name_typed(trusted: Place, opened: Opened, key_file: str) -> None:
    await trusted.register("keys", "names")
    await trusted.applied("keys", names=["old", "stays"])
    run = await trusted.ask("keys", vars={"names": ["born", "stays"], "born": "tuesday"}, message="spring cleaning, see OPS-7")
    ui = await opened()
    await ui.signed_in(key_file=key_file, run_id=run["run_id"])

    await expect(ui.page.get_by_role("heading", level=1)).to_have_text("local/dev/keys")
    await expect(ui.status).to_contain_text("Waiting for approval")
    await expect(ui.page.get_by_role("main")).to_contain_text("spring cleaning, see OPS-7")
    await expect(ui.region("Read this first")).to_contain_text("destroyed")
    groups = [text.split("\n")[0] for text in await ui.page.locator(".group > h3").all_inner_texts()]
    assert groups == ["Destroys 1", "Replaces 1", "Creates 1"]
    replaced = ui.page.get_by_role("row", name="triggers_replace")
    assert [text.strip() for text in await replaced.get_by_role("cell").all_inner_texts()] == ["monday", "tuesday"]

    name = ui.page.get_by_role("textbox", name="Type local/dev/keys")
    await ui.page.keyboard.press("Tab")
    await expect(ui.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await ui.tab_to(name)
    assert await name.evaluate("field => getComputedStyle(field).outlineStyle") == "solid"
    await ui.page.keyboard.type("local/dev/key")  # not quite
    await ui.page.keyboard.press("Tab")
    await ui.page.keyboard.type("read it")
    await ui.page.keyboard.press("Tab")
    await ui.page.keyboard.press("Enter")
    await expect(ui.page.get_by_role("alert")).to_contain_text("the name was not typed, or not exactly")
    assert ui.complaints and all("422" in complaint for complaint in ui.complaints)  # which the browser tells as well
    ui.complaints.clear()
    await ui.tab_to(name)
    await ui.page.keyboard.press("End")
    await ui.page.keyboard.type("s")
    await ui.page.keyboard.press("Enter")

    await expect(ui.status).to_contain_text("Exactly the approved plan was applied.")
    got = await trusted.get(run["run_id"], include=("approvals",))
    accepted = [approval for approval in got["data"]["approvals"] if approval["accepted"]]
    assert [(a["by"], a["channel"], a["typed_name"], a["comment"]["text"]) for a in accepted] == [
        ("person:bo", "front", "local/dev/keys", "read it")
    ]


@requirement("page:live")
async def test_progress_shows_and_is_told_while_the_apply_goes_on_and_nothing_typed_is_lost(
    trusted: Place, opened: Opened, key_file: str, tmp_path: Path
) -> None:
    trusted.gates.append(tmp_path / "1.open")
    await trusted.register("moving", "gates", world=str(tmp_path))
    run = await trusted.ask("moving")
    person = trusted.it.key("person:cy", kind="person", role="admin")
    (tmp_path / "cy.key").write_text(person)
    ui = await opened()
    await ui.signed_in(key_file=str(tmp_path / "cy.key"), run_id=run["run_id"])
    comment = ui.page.get_by_role("textbox", name="Comment")
    await comment.fill("half a sentence")

    await call(trusted.person, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
    await until(trusted.agent, run["run_id"], "applying")

    await expect(ui.status).to_contain_text("Applying")
    await expect(ui.page.get_by_role("progressbar", name="1 of 5 changes done")).to_be_visible()
    await expect(ui.region("Where it stands")).to_contain_text("terraform_data.gate")
    await expect(comment).to_have_value("half a sentence")
    await expect(ui.page.locator("#news")).to_contain_text("The run has moved on. What you typed is still here.")
    await expect(ui.page.get_by_role("button", name="Approve this plan")).to_be_disabled()
    (tmp_path / "1.open").touch()
    await expect(ui.page.get_by_role("progressbar", name="5 of 5 changes done")).to_be_visible()
    await expect(ui.status).to_contain_text("Applied")
    assert await ui.page.title() == "Applied · local/dev/moving · Countersign"
    await expect(ui.region("Timeline")).to_contain_text("Verifying")


async def test_a_page_that_is_open_while_the_run_is_planned_shows_the_plan_by_itself(trusted: Place, opened: Opened, key_file: str) -> None:
    await trusted.register("planned")
    ui = await opened()
    await ui.signed_in(key_file=key_file)
    started = await call(trusted.agent, "apply_terraform", env="dev", workspace="planned")
    await ui.open(started["run"]["run_id"])

    await expect(ui.page.get_by_role("button", name="Approve this plan")).to_be_visible()
    await expect(ui.region("Creates 2")).to_contain_text("terraform_data.first")


async def test_without_javascript_everything_but_the_moving_works(trusted: Place, opened: Opened, key_file: str) -> None:
    await trusted.register("plain")
    run = await trusted.ask("plain")
    ui = await opened(java_script_enabled=False)
    await ui.signed_in(key_file=key_file, run_id=run["run_id"])

    await ui.page.get_by_role("textbox", name="Comment").fill("no script needed")
    await ui.page.get_by_role("button", name="Approve this plan").click()

    await expect(ui.page.get_by_role("main")).to_contain_text("Your approval is recorded.")
    await until(trusted.agent, run["run_id"], "applied")
    await ui.page.get_by_role("link", name="look again").click()
    await expect(ui.status).to_contain_text("Applied")
    await ui.page.get_by_role("button", name="Sign out").click()
    await expect(ui.page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_a_link_in_a_chat_leads_who_is_signed_in_to_the_run(trusted: Place, opened: Opened, key_file: str) -> None:
    await trusted.register("linked")
    run = await trusted.ask("linked")
    link, chat = run["approval"]["url"], f"http://localhost:{trusted.it.front_port}/chat"
    ui = await opened()
    await ui.signed_in(key_file=key_file)
    await ui.page.route(chat, lambda route: route.fulfill(body=f'<a href="{link}">a run waits</a>', content_type="text/html"))
    await ui.page.goto(chat)
    asked: list[bool] = []

    async def noted(request: Request) -> None:
        if request.url == link:
            asked.append("cookie" in await request.all_headers())

    ui.page.on("request", noted)

    await ui.page.get_by_role("link", name="a run waits").click()

    await expect(ui.page.get_by_role("heading", level=1)).to_have_text("local/dev/linked")
    await expect(ui.page.get_by_role("button", name="Approve this plan")).to_be_visible()
    assert asked == [False, True]  # `localhost` is another site than 127.0.0.1, so the cookie is held back at first


@requirement("page:foreign-text")
async def test_names_that_try_to_be_markup_are_read_as_names(trusted: Place, opened: Opened, key_file: str) -> None:
    name = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    await trusted.register("hostile", "names")
    run = await trusted.ask("hostile", vars={"names": [name]}, message=f"see {name}")
    ui = await opened()
    ui.page.on("dialog", lambda dialog: ui.complaints.append(f"a dialog said {dialog.message}"))
    await ui.signed_in(key_file=key_file, run_id=run["run_id"])

    await expect(ui.page.get_by_role("main")).to_contain_text(f"see {name}")
    await expect(ui.region("Creates 1")).to_contain_text("<script>alert(1)</script>")
    assert await ui.page.locator("main img, main script").count() == 0


@pytest.mark.parametrize(("scheme", "darker"), [("light", False), ("dark", True)])
async def test_it_is_light_or_dark_as_the_reader_has_it_and_always_readable(
    trusted: Place, opened: Opened, key_file: str, scheme: str, darker: bool
) -> None:
    await trusted.register(f"shade-{scheme}", "names")
    run = await trusted.ask(f"shade-{scheme}")
    ui = await opened(color_scheme=scheme)
    await ui.signed_in(key_file=key_file, run_id=run["run_id"])

    ground = await ui.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(json.loads(f"[{ground.removeprefix('rgb(').removesuffix(')')}]")) < 3 * 128) is darker
    assert await ui.page.evaluate(CONTRAST) == []


async def test_on_a_narrow_screen_nothing_has_to_be_moved_sideways(trusted: Place, opened: Opened, key_file: str) -> None:
    await trusted.register("narrow", "names")
    await trusted.applied("narrow", names=["old", "stays"])
    run = await trusted.ask("narrow", vars={"names": ["a-name-that-is-very-long-" * 6, "stays"], "born": "tuesday"})
    ui = await opened(viewport={"width": 360, "height": 740})
    await ui.signed_in(key_file=key_file, run_id=run["run_id"])

    assert await ui.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await ui.page.get_by_role("link", name="Go to the decision").click()
    await expect(ui.page.get_by_role("button", name="Approve and destroy")).to_be_in_viewport()
    await ui.open()
    assert await ui.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_the_command_starts_the_browser_it_is_told_and_keeps_the_code_out_of_its_arguments(
    trusted: Place, opened: Opened, key_file: str, tmp_path: Path
) -> None:
    script, told = tmp_path / "browser", tmp_path / "told"
    script.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {told}.part && mv {told}.part {told}\n')
    script.chmod(0o700)
    trusted.it.environment["BROWSER"] = f"{script} %s"
    try:
        said = trusted.it.cli("open", "--key-file", key_file)
    finally:
        del trusted.it.environment["BROWSER"]

    async def started() -> bool:
        return told.exists()

    await eventually(started, "the browser to be started", PATIENCE)
    address = told.read_text()
    file = Path(address.removeprefix("file://"))
    assert (address.startswith("file://"), "code=" in address, file.stat().st_mode & 0o777) == (True, False, 0o600)
    assert "opened in your browser" in said
    ui = await opened()
    await ui.page.goto(address)
    await ui.page.get_by_role("button", name="Sign in as person:bo").click()
    await expect(ui.page.get_by_role("heading", name="Runs")).to_be_visible()


@requirement("page:people-only")
def test_the_command_says_why_it_opens_nothing(trusted: Place, tmp_path: Path) -> None:
    agent = tmp_path / "agent.key"
    agent.write_text(trusted.it.key("agent:otto", acts_for="person:bo"))

    refused = json.loads(trusted.it.cli("open", "--key-file", str(agent), "--json", code=5))["error"]
    assert refused["code"] == "permission_denied"
    assert "agent:otto is an agent, and this page is for people" in refused["message"]
    assert json.loads(trusted.it.cli("open", "--url", "http://127.0.0.1:1", "--json", code=4))["error"]["code"] == "unavailable"
    assert "no id of a run" in json.loads(trusted.it.cli("open", "run_x", "--json", code=2))["error"]["message"]


# Texts whose contrast with what is behind them is below 4.5 (3 where they are large), by WCAG 2.2.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1)
    canvas.fillStyle = colour
    canvas.fillRect(0, 0, 1, 1)
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data
    return [r, g, b, a / 255]
  }
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]))
  const behind = (element) => {
    const layers = []
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor))
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255])
  }
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const [poor, say] = [[], (element, ratio) => `${element.tagName} ${element.className} ${ratio}: ${element.textContent.trim()}`]
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
    const style = getComputedStyle(element)
    if (!own || !element.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true })) continue
    const ground = behind(element)
    const [a, b] = [light(over(rgba(style.color), ground)), light(ground)].sort((x, y) => y - x)
    const ratio = (a + 0.05) / (b + 0.05)
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700)
    if (ratio < (large ? 3 : 4.5)) poor.push(say(element, ratio))
  }
  return poor
}"""
