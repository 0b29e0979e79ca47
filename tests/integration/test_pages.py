"""The pages for people over real HTTP, as a browser without JavaScript uses them: to find what waits, read it, and decide."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from countersign.adapters.store import keys, page_sessions, runs
from countersign.core.principal import SYSTEM, Kind, Principal
from countersign.core.run import RunState
from tests.integration.browser import Browser, Page, browser
from tests.integration.front import ANA, BO, CI, CLAUDE, PATIENCE, FrontService, front_service, moved_clock
from tests.integration.test_front import served
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
DEE = Principal(id="person:dee", kind=Kind.PERSON)
OTHER_DIGEST = "sha256:" + "0" * 64
NOBODYS_KEY = "cs_" + "0" * 16 + "_" + "0" * 64
HOSTILE = (
    "</title></textarea><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{ 7*7 }}{% include 'x' %}",
    "a\u202egpj.exe\u2066b\u200bc\x1b[31md\x00",
)
CLEANED = {HOSTILE[4]: "agpj.exebcd"}


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[FrontService]:
    async with front_service(tmp_path) as running:
        running.engine.want(("a", "create"))
        await running.stack()
        yield running


@pytest.fixture
async def url(it: FrontService) -> AsyncIterator[str]:
    async with served(it) as at:
        yield at


@pytest.fixture
async def web(url: str) -> AsyncIterator[Browser]:
    async with browser(url) as opened:
        yield opened


async def asked(it: FrontService, slug: str = "main", *, by: Principal = CLAUDE, env: str = "dev", **more: Any) -> dict[str, Any]:
    """A run that waits for approval."""
    async with it.as_(by, "platform" if by.kind is Kind.AGENT else "admin") as client:
        run: dict[str, Any] = (await client.call("apply_terraform", env=env, workspace=slug, wait_seconds=20, **more))["run"]
    assert run["state"] == "awaiting_approval", run
    return run


def page_of(run: dict[str, Any]) -> str:
    return f"/runs/{run['run_id']}"


# -- signing in -----------------------------------------------------------------------------------------------------------


@requirement("page:sign-in")
async def test_one_signs_in_with_a_persons_key_and_the_cookie_holds_something_else(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    key = await it.key(ANA, "approver")
    door = await web.open(page_of(run))
    assert (door.path, door.form("/signin").fields["to"]) == ("/signin", page_of(run))

    sent = await web.send(door, "/signin", key=key, follow=False)

    assert (sent.status, sent.answer.headers["location"]) == (303, page_of(run))
    cookie = sent.answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
    (value,) = web.cookies.values()
    assert key not in value and key.split("_")[2] not in value
    async with it.front.store.read() as conn:
        rows = [str(row) for row in await conn.execute(page_sessions.page_sessions.select())]
    assert len(rows) == 1 and value not in rows[0]
    assert "signed in as person:ana" in (await web.open(page_of(run))).text
    assert [row["action"] for row in await it.audited()][-1] == "page.sign_in"


@requirement("page:people-only")
@pytest.mark.parametrize(
    ("who", "role", "named"), [(CLAUDE, "platform", "agent:claude is an agent"), (CI, "ci", "machine:ci is a machine")]
)
async def test_agents_and_machines_do_not_sign_in_and_are_told_so(
    it: FrontService, web: Browser, who: Principal, role: str, named: str
) -> None:
    refused = await web.sign_in(await it.key(who, role))

    assert refused.status == 403
    assert named in refused.text and "this page is for people" in refused.text
    assert web.cookies == {}
    (row,) = [row for row in await it.audited() if row["action"] == "page.sign_in"]
    assert (row["by"], row["outcome"]) == (who.id, "permission_denied")


async def test_a_key_nobody_made_opens_nothing_and_guessing_is_slowed_down(it: FrontService, web: Browser) -> None:
    for _ in range(10):
        refused = await web.sign_in(NOBODYS_KEY)
        assert refused.status == 401
        assert "That key opens nothing" in refused.text
        assert NOBODYS_KEY not in refused.answer.text

    slowed = await web.sign_in(await it.key(ANA, "approver"))

    assert slowed.status == 429
    assert 1 <= int(slowed.answer.headers["retry-after"]) <= 61
    assert web.cookies == {}


@requirement("page:open")
async def test_a_code_signs_its_person_in_once_after_a_click(it: FrontService, url: str, web: Browser) -> None:
    run = await asked(it)
    key = await it.key(ANA, "approver")
    made = await code(url, key, page_of(run))
    link = urlsplit(made["url"])
    assert made["url"].startswith("http://127.0.0.1:8700/signin?")  # as the settings say that it listens

    for _ in range(2):  # looking at it uses nothing up
        question = await web.open(f"{link.path}?{link.query}")
        assert "Sign in as person:ana?" in question.text
        assert web.cookies == {}
    opened = await web.send(question, "/signin")

    assert opened.path == page_of(run)
    assert "signed in as person:ana" in opened.text
    async with browser(url) as another:
        late = await another.send(question, "/signin")
        assert (late.status, another.cookies) == (401, {})
        assert "That code was used already" in late.text
        assert (await another.open(f"{link.path}?{link.query}")).status == 410


async def test_a_code_is_good_for_a_minute_and_not_beyond_its_key(it: FrontService, url: str, web: Browser) -> None:
    row, key = await keys.create_key(it.front.store, org=it.org, principal=ANA, role="approver", by=SYSTEM)
    first, second = [urlsplit((await code(url, key))["url"]) for _ in range(2)]
    question = await web.open(f"{first.path}?{first.query}")

    with moved_clock(it.front.store, seconds=61):
        assert (await web.send(question, "/signin")).status == 401
    question = await web.open(f"{second.path}?{second.query}")
    await keys.revoke_key(it.front.store, org=it.org, key_id=row.id, by=SYSTEM)
    assert (await web.send(question, "/signin")).status == 401
    assert web.cookies == {}


@requirement("page:people-only")
async def test_only_a_persons_key_gets_a_code(it: FrontService, url: str) -> None:
    async with httpx2.AsyncClient() as http:
        nobody = await http.post(f"{url}/signin/code")
        agent = await http.post(f"{url}/signin/code", headers={"Authorization": f"Bearer {await it.key(CLAUDE, 'platform')}"})
        by_link = await http.get(f"{url}/signin/code", headers={"Authorization": f"Bearer {await it.key(ANA, 'approver')}"})

    assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "unauthenticated")
    assert (agent.status_code, agent.json()["error"]["code"]) == (403, "permission_denied")
    assert by_link.status_code in (401, 404, 405)


async def code(url: str, key: str, to: str = "/runs") -> dict[str, str]:
    async with httpx2.AsyncClient() as http:
        answer = await http.post(f"{url}/signin/code", params={"to": to}, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    told: dict[str, str] = answer.json()
    return told


@requirement("page:no-open-redirect")
@pytest.mark.parametrize(
    "to", ["https://evil.example/", "//evil.example", "/\\evil.example", "/signout", "/runs/../mcp", "javascript:alert(1)"]
)
async def test_signing_in_never_leads_away(it: FrontService, web: Browser, to: str) -> None:
    sent = await web.send(await web.open("/signin"), "/signin", key=await it.key(ANA, "approver"), to=to, follow=False)

    assert (sent.status, sent.answer.headers["location"]) == (303, "/runs")
    assert (await web.open(f"/signin?to={to}")).path == "/runs"


async def test_a_link_from_a_chat_leads_to_the_run_although_the_browser_holds_the_cookie_back_at_first(
    it: FrontService, web: Browser
) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))
    async with browser(web.address) as strict:  # what a browser sends that keeps SameSite=Strict
        arrived = await strict.open(page_of(run), Sec_Fetch_Site="cross-site")

    (refresh,) = [given["content"] for name, given in arrived.elements if given.get("http-equiv") == "refresh"]
    assert refresh == f"0;url={page_of(run)}"
    assert arrived.links["Go on"] == page_of(run)
    assert run["plan_digest"] not in arrived.text
    assert run["plan_digest"] in (await web.open(page_of(run), Sec_Fetch_Site="same-origin")).text


async def test_behind_a_public_address_links_name_it_and_the_cookie_is_for_it_alone(tmp_path: Path) -> None:
    async with front_service(tmp_path, public_url="https://cs.example.com") as it:
        it.engine.want(("a", "create"))
        await it.stack()
        run = await asked(it)
        assert run["approval"]["url"] == f"https://cs.example.com{page_of(run)}"
        key = await it.key(ANA, "approver")
        async with served(it) as url, httpx2.AsyncClient() as http:
            assert (await code(url, key))["url"].startswith("https://cs.example.com/signin?")
            sent = {"Host": "cs.example.com", "Sec-Fetch-Site": "same-origin", "Origin": "https://cs.example.com"}
            signed_in = await http.post(f"{url}/signin", data={"key": key}, headers=sent)
            foreign = await http.post(f"{url}/signin", data={"key": key}, headers={**sent, "Host": "cs.example.com.evil.example"})

    assert re.match(r"__Host-countersign=[0-9a-f]{64}; ", signed_in.headers["set-cookie"])
    assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/"} <= set(signed_in.headers["set-cookie"].split("; "))
    assert foreign.status_code == 421


# -- sessions -------------------------------------------------------------------------------------------------------------


@requirement("page:sessions")
async def test_a_session_ends_when_nobody_uses_it_for_an_hour_and_after_twelve_whatever_happens(it: FrontService, web: Browser) -> None:
    await web.sign_in(await it.key(ANA, "approver"))

    with moved_clock(it.front.store, minutes=59):
        assert (await web.open("/runs")).path == "/runs"
    with moved_clock(it.front.store, minutes=59 + 61):
        assert (await web.open("/runs")).path == "/signin"

    await web.sign_in(await it.key(ANA, "approver"))
    for hours in range(12):
        with moved_clock(it.front.store, minutes=hours * 59):
            assert (await web.open("/runs")).path == "/runs"
    with moved_clock(it.front.store, hours=12, seconds=1):
        assert (await web.open("/runs")).path == "/signin"


async def test_a_page_that_follows_a_run_by_itself_keeps_no_session_alive(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))

    with moved_clock(it.front.store, minutes=50):
        assert (await web.http.get(f"{web.address}{page_of(run)}/live")).status_code == 200
        assert (await web.http.get(f"{web.address}/runs/live")).status_code == 200
    with moved_clock(it.front.store, minutes=61):
        assert (await web.http.get(f"{web.address}{page_of(run)}/live")).status_code == 401
        assert (await web.open("/runs")).path == "/signin"


@requirement("page:sessions")
@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_session_ends_with_its_key(it: FrontService, web: Browser, how: str) -> None:
    run = await asked(it)
    store = it.front.store
    ends = store.now() + timedelta(minutes=5)
    row, key = await keys.create_key(store, org=it.org, principal=ANA, role="approver", by=SYSTEM, expires_at=ends)
    await web.sign_in(key)
    page = await web.open(page_of(run))

    if how == "revoked":
        await keys.revoke_key(store, org=it.org, key_id=row.id, by=SYSTEM)
    with moved_clock(store, minutes=0 if how == "revoked" else 6):
        sent = await web.send(page, "/approve", comment="read every line of it")
        assert sent.status == 401
        assert "read every line of it" in sent.text  # nothing that was typed is lost
        assert (await web.open(page_of(run))).path == "/signin"
    assert await it.decisions(run["run_id"]) == []


async def test_who_signs_out_is_out_also_with_the_old_cookie(it: FrontService, web: Browser) -> None:
    page = await web.sign_in(await it.key(ANA, "approver"))
    kept = web.cookies

    assert (await web.send(page, "/signout")).path == "/signin"

    assert web.cookies == {}
    async with browser(web.address, cookies=kept) as thief:
        assert (await thief.open("/runs")).path == "/signin"


# -- forms ----------------------------------------------------------------------------------------------------------------


@requirement("page:csrf")
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": None},
        {"Origin": "null", "Sec-Fetch-Site": None},
        {"Origin": None, "Sec-Fetch-Site": None},
        {"Origin": "null", "Sec-Fetch-Site": "same-site"},  # another port of this machine
    ],
)
async def test_what_another_site_sends_with_the_cookie_does_nothing(it: FrontService, web: Browser, headers: dict[str, str | None]) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))
    page = await web.open(page_of(run))

    for form in ("/approve", "/reject", "/cancel", "/signout"):
        sent = await web.send(page, form, headers=headers, comment="typed", reason="typed")
        assert sent.status == 403
        assert "did not come from a page of Countersign" in sent.text

    assert (await it.run(run["run_id"])).state is RunState.AWAITING_APPROVAL
    assert (await web.open(page_of(run))).path == page_of(run)  # and nobody was signed out


@requirement("page:csrf")
async def test_a_form_without_the_token_of_this_very_session_does_nothing(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(BO, "approver"))
    of_another = (await web.open(page_of(run))).form("/approve").fields["token"]
    await web.sign_in(await it.key(ANA, "approver"))
    page = await web.open(page_of(run))

    for token in ("", "0" * 64, of_another):
        sent = await web.send(page, "/approve", token=token, comment="what I typed")
        assert sent.status == 403
        assert "what I typed" in sent.text
    assert await it.decisions(run["run_id"]) == []


async def test_nobody_is_signed_in_by_another_site(it: FrontService, web: Browser) -> None:
    sent = await web.send(
        await web.open("/signin"),
        "/signin",
        headers={"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        key=await it.key(ANA, "admin"),
    )

    assert (sent.status, web.cookies) == (403, {})


async def test_a_name_bent_to_our_address_gets_nothing(it: FrontService, url: str) -> None:
    async with httpx2.AsyncClient() as http:
        for path in ("/", "/runs", "/signin", f"/runs/run_{'0' * 26}"):
            assert (await http.get(f"{url}{path}", headers={"Host": "evil.example:8700"})).status_code == 421
        assert (await http.post(f"{url}/signin/code", headers={"Host": "evil.example:8700"})).status_code == 421


async def test_a_form_that_is_none_is_refused_readably(it: FrontService, web: Browser) -> None:
    await web.sign_in(await it.key(ANA, "approver"))
    run = await asked(it)
    headers = {"Sec-Fetch-Site": "same-origin"}

    for content in ({"json": {}}, {"content": b"x" * 70_000, "headers": {**headers, "Content-Type": "application/x-www-form-urlencoded"}}):
        answer = await web.http.post(f"{web.address}{page_of(run)}/approve", **{"headers": headers, **content})
        assert answer.status_code == 400
        assert "That cannot be done" in answer.text


# -- reading --------------------------------------------------------------------------------------------------------------


@requirement("page:list")
async def test_the_list_shows_what_waits_for_me_then_what_is_open_then_what_has_ended(it: FrontService, web: Browser) -> None:
    for slug in ("theirs", "done", "mine"):
        await it.stack(slug, env="prod" if slug == "theirs" else "dev")
    own = await asked(it, "theirs", env="prod")  # asked for by Ana's agent: in prod another person has to agree
    done = await asked(it, "done")
    async with it.as_(BO, "approver") as bo:
        await bo.call("run_approve", run_id=done["run_id"], plan_digest=done["plan_digest"])
    await it.reaches(done["run_id"], RunState.APPLIED)
    mine = await asked(it, "mine", message="see OPS-7")
    await web.sign_in(await it.key(ANA, "approver"))

    page = await web.open("/")

    assert page.path == "/runs"
    assert re.search(r"Waiting for you 1 .*acme/dev/mine.*see OPS-7.*Open 1 .*acme/prod/theirs.*Ended 1 .*acme/dev/done", page.text)
    assert {own["run_id"], mine["run_id"], done["run_id"]} == {
        link.split("/")[2] for name, given in page.elements if name == "a" and (link := given["href"]).startswith("/runs/run_")
    }
    by_env = (await web.open("/runs?env=acme/prod")).text
    assert "acme/prod/theirs" in by_env and "acme/dev/mine" not in by_env
    by_state = (await web.open("/runs?state=applied")).text
    assert "acme/dev/done" in by_state and "acme/dev/mine" not in by_state
    assert (await web.open("/runs?state=nonsense")).status == 400
    assert (await web.open("/runs?env=acme/nowhere")).status == 404
    assert (await web.open("/runs?page=x")).status == 400


async def test_a_long_list_is_told_in_pages(it: FrontService, web: Browser) -> None:
    async with it.as_(ANA, "admin") as ana:
        for number in range(27):
            run = (await ana.call("terraform_plan", env="dev", wait_seconds=20, idempotency_key=f"plan-number-{number}"))["run"]
            await it.reaches(run["run_id"], RunState.PLANNED_AND_FINISHED)
    await web.sign_in(await it.key(ANA, "viewer"))

    first, second = await web.open("/runs"), await web.open("/runs?page=2")

    listed = [{given["href"] for name, given in page.elements if given.get("class") == "run"} for page in (first, second)]
    assert [len(rows) for rows in listed] == [25, 2]
    assert not listed[0] & listed[1]
    assert first.links["2"] == "/runs?page=2#recent"


@requirement("page:reads")
async def test_the_page_of_a_run_tells_who_asked_and_why_what_is_destroyed_first_and_who_has_to_agree(
    it: FrontService, web: Browser
) -> None:
    it.engine.want(("made.one", "create"), ("gone.two", "delete"), ("edited.three", "update"))
    run = await asked(it, message="spring cleaning, see OPS-7")
    await web.sign_in(await it.key(ANA, "approver"))

    page = await web.open(page_of(run))

    told = page.text
    for words in (
        "apply_terraform asked for by agent:claude for person:ana",
        "spring cleaning, see OPS-7",
        "Waiting for approval",
        "1 to add, 1 to change, 1 to destroy",
        "Needs a person",
        "policy: any change in * needs person",
        f"Digest of the plan {run['plan_digest']}",
        "Type acme/dev/main",
    ):
        assert words in told, words
    places = [told.index(address) for address in ("gone.two", "made.one", "edited.three")]
    assert places == sorted(places)
    assert told.index("gone.two") < told.index("Decide Needs")
    (link,) = [given["href"] for name, given in page.elements if given.get("href", "").endswith(f"/workflows/{run['run_id']}")]
    assert link == f"http://127.0.0.1:8233/namespaces/default/workflows/{run['run_id']}"
    # For who listens: one main heading, landmarks, a way past the head, and every field has a name.
    names = [name for name, _ in page.elements]
    assert names.count("h1") == names.count("main") == 1 and "header" in names and "nav" in names
    assert ("a", {"class": "skip", "href": "#main"}) in page.elements
    labels = {given.get("for") for name, given in page.elements if name == "label"}
    fields = {given["id"] for name, given in page.elements if name in ("input", "textarea", "select") and given.get("type") != "hidden"}
    assert fields and fields <= labels
    assert [given["aria-live"] for _, given in page.elements if "aria-live" in given] == ["polite"]


@requirement("page:foreign-text")
@pytest.mark.parametrize("text", HOSTILE)
async def test_foreign_text_stays_text_wherever_it_stands(it: FrontService, web: Browser, text: str) -> None:
    it.engine.want((text, "create"))
    seen = CLEANED.get(text, text)
    run = await asked(it, message=text)
    await web.sign_in(await it.key(ANA, "approver"))
    page = await web.open(page_of(run))

    refused = await web.send(page, "/approve", plan_digest=OTHER_DIGEST, comment=text)

    pages = [page, refused, await web.open("/runs"), await web.open(f"{page_of(run)}?action=create&address={seen[:20]}")]
    for drawn in pages:
        assert drawn.answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        for name, given in drawn.elements:
            assert name != "img" or given["src"].startswith("/static/")
            assert name != "script" or given["src"].startswith("/static/")
            assert not [attribute for attribute in given if attribute.startswith("on") or attribute == "style"]
            assert not given.get("href", "").lower().startswith(("javascript:", "data:", "//"))
        assert not set(drawn.answer.text) & set("\u202e\u2066\u200b\x1b\x00")
    assert f"Why: {seen}" in page.text and f"+ create {seen}" in page.text
    assert refused.form("/approve").fields["comment"] == seen


async def test_what_is_not_theirs_to_see_is_answered_like_what_is_not_there(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(DEE, "ui"))  # sees its own runs only

    hidden, missing = await web.open(page_of(run)), await web.open(f"/runs/run_{'0' * 26}")

    assert hidden.status == missing.status == 404
    assert hidden.text == missing.text
    assert "acme/dev/main" not in (await web.open("/runs")).text
    assert (await web.http.get(f"{web.address}{page_of(run)}/live")).status_code == 404
    assert (await web.open(f"{page_of(run)}/artifacts/art_x")).status == 404


async def test_logs_and_artifacts_are_read_as_text_that_nobody_vouches_for(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))
    page = await web.open(page_of(run))

    assert "Log plan-1" in page.text and "nothing to follow. plan-1 ledger planned" in page.text
    ledger = await web.open(f"{page_of(run)}?log=ledger")
    assert "Log ledger" in ledger.text and "awaiting_approval state" in ledger.text
    assert (await web.open(f"{page_of(run)}?log=nonsense")).status == 400
    artifact = await web.open(page.links["log"])
    assert "Lines 1 to 1 of 1. Redacted." in artifact.text and artifact.text.endswith("planned")
    another = await it.stack("another")
    assert another
    other = await asked(it, "another")
    assert (await web.open(f"{page_of(other)}/artifacts/{page.links['log'].rsplit('/', 1)[1]}")).status == 404


# -- deciding -------------------------------------------------------------------------------------------------------------


@requirement("page:decides", "promise:approved-is-what-runs")
async def test_a_form_approves_exactly_the_plan_it_stood_under_in_the_name_of_who_is_signed_in(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))
    page = await web.open(page_of(run))

    sent = await web.send(page, "/approve", comment="fine & good")

    assert (sent.status, sent.path) == (200, page_of(run))
    assert "Your approval is recorded." in sent.text
    await it.reaches(run["run_id"], RunState.APPLIED)
    (decision,) = await it.decisions(run["run_id"])
    assert (decision.by.id, decision.channel, decision.plan_digest, decision.comment) == (
        "person:ana",
        "front",
        run["plan_digest"],
        "fine & good",
    )
    applied = await web.open(page_of(run))
    assert "1 of 1 changes done" in applied.text and "fine & good" in applied.text
    assert applied.forms == ["signout"]
    assert it.engine.world == ["a create"]


@requirement("promise:destroying-asks")
@pytest.mark.parametrize("typed", ["", "acme/dev/other", "ACME/dev/main"])
async def test_what_destroys_needs_the_name_typed_and_the_rest_stays_typed(it: FrontService, web: Browser, typed: str) -> None:
    it.engine.want(("a", "delete"))
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))
    page = await web.open(page_of(run))
    assert page.form("/approve").fields["confirm_name"] == ""

    refused = await web.send(page, "/approve", confirm_name=typed, comment="a long comment")

    assert refused.status == 422
    assert "Not approved. It destroys something, and the name was not typed, or not exactly." in refused.text
    assert refused.form("/approve").fields["comment"] == "a long comment"
    assert refused.form("/approve").fields["confirm_name"] == typed
    assert [given["id"] for _, given in refused.elements if given.get("aria-invalid") == "true"] == ["confirm_name"]
    assert (await it.run(run["run_id"])).state is RunState.AWAITING_APPROVAL
    await web.send(refused, "/approve", confirm_name=" acme/dev/main ")
    await it.reaches(run["run_id"], RunState.APPLIED)


@requirement("composite:one-approval", "composite:claim")
async def test_a_composite_is_decided_on_its_page_which_lists_its_steps_and_a_steps_page_leads_there(
    it: FrontService, web: Browser
) -> None:
    it.engine.want(("net", "create"), of="net")
    await it.stack("net")
    steps = [{"type": "apply_terraform", "input": {"env": "dev", "workspace": slug}} for slug in ("net", "main")]
    async with it.as_(CLAUDE, "platform") as agent:
        run = (await agent.call("run_start", type="composite", input={"steps": steps}, wait_seconds=20))["run"]
        _, second = (await agent.call("run_get", run_id=run["run_id"]))["data"]["steps_of_it"]
    await web.sign_in(await it.key(ANA, "approver"))
    listed = (await web.open("/runs")).answer.text
    assert page_of(run) in listed and page_of(second) not in listed

    step = await web.open(page_of(second))
    assert f'href="{page_of(run)}"' in step.answer.text and "Step 2 of" in step.text
    assert step.forms == ["signout"]
    page = await web.open(page_of(run))
    assert f'href="{page_of(second)}"' in page.answer.text
    assert "1/net" in page.text and "2/a" in page.text
    await web.send(page, f"{page_of(run)}/approve")

    await it.reaches(run["run_id"], RunState.APPLIED)
    assert it.engine.world == ["net create", "a create"]


async def test_a_plan_that_is_not_the_one_that_was_read_is_not_approved(it: FrontService, web: Browser) -> None:
    it.engine.want(("a", "delete"))
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))

    refused = await web.send(
        await web.open(page_of(run)), "/approve", plan_digest=OTHER_DIGEST, comment="my comment", confirm_name="acme/dev/main"
    )

    assert refused.status == 409
    assert "The plan is not the one you read any more, so nothing was decided." in refused.text
    fields = refused.form("/approve").fields
    assert (fields["plan_digest"], fields["comment"], fields["confirm_name"]) == (run["plan_digest"], "my comment", "")
    assert [d.accepted for d in await it.decisions(run["run_id"])] == [False]


@requirement("I7")
async def test_who_asked_does_not_approve_where_another_person_has_to(it: FrontService, web: Browser) -> None:
    await it.stack("shop", env="prod")
    run = await asked(it, "shop", env="prod")
    await web.sign_in(await it.key(ANA, "approver"))
    page = await web.open(page_of(run))

    assert "You cannot approve this: Person:ana asked for this change, so another person has to agree" in page.text
    assert "approve" not in page.forms and "reject" in page.forms
    sent = await post(web, page, f"{page_of(run)}/approve", plan_digest=run["plan_digest"])
    assert sent.status == 403
    assert "Not approved. person:ana asked for this change" in sent.text
    await web.sign_in(await it.key(BO, "approver"))
    await web.send(await web.open(page_of(run)), "/approve")
    await it.reaches(run["run_id"], RunState.APPLIED)


async def post(web: Browser, page: Page, path: str, **fields: str) -> Page:
    """A form that the page does not offer."""
    token = page.form("/signout").fields["token"]
    answer = await web.http.post(f"{web.address}{path}", data={"token": token, **fields}, headers={"Sec-Fetch-Site": "same-origin"})
    return Page(answer)


async def test_who_may_only_read_is_offered_no_form_and_gets_nowhere_without_one(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(DEE, "viewer"))
    page = await web.open(page_of(run))

    assert page.forms == ["signout"]
    assert "The role viewer does not decide about runs that others asked for." in page.text
    for form, fields in (("approve", {"plan_digest": run["plan_digest"]}), ("reject", {"reason": "no"}), ("cancel", {}), ("resume", {})):
        refused = await post(web, page, f"{page_of(run)}/{form}", **fields)
        assert refused.status in (403, 404), form
    assert (await it.run(run["run_id"])).state is RunState.AWAITING_APPROVAL


async def test_two_people_are_two_people(it: FrontService, tmp_path: Path) -> None:
    policy = {"rules": [{"need": "two"}]}
    async with front_service(tmp_path / "two", policy=policy) as two:
        two.engine.want(("a", "create"))
        await two.stack()
        async with served(two) as url, browser(url) as web:
            run = await asked(two)
            await web.sign_in(await two.key(BO, "approver"))
            page = await web.open(page_of(run))
            assert "2 of 2 still missing" in page.text
            agreed = await web.send(page, "/approve")
            assert "You agreed to this plan. Somebody else has to agree as well." in agreed.text
            assert "1 of 2 still missing" in agreed.text and "approve" not in agreed.forms
            assert "Waiting for you 0" in (await web.open("/runs")).text
            await web.sign_in(await two.key(DEE, "approver"))
            await web.send(await web.open(page_of(run)), "/approve")
            await two.reaches(run["run_id"], RunState.APPLIED)


async def test_a_rejection_says_why_and_a_missing_reason_is_asked_for(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))
    page = await web.open(page_of(run))

    assert (await web.send(page, "/reject")).status == 400
    done = await web.send(page, "/reject", reason="not on a Friday")

    assert "The run is rejected. Nothing was changed." in done.text
    assert "not on a Friday" in done.text
    assert (await it.run(run["run_id"])).state is RunState.REJECTED
    late = await web.send(page, "/approve", comment="too late, kept")
    assert late.status == 409
    assert "Not approved. the run has ended: rejected" in late.text


async def test_a_run_is_canceled_with_a_reason(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "admin"))

    done = await web.send(await web.open(page_of(run)), "/cancel", cancel_reason="wrong stack")

    assert done.path == page_of(run)
    await it.reaches(run["run_id"], RunState.CANCELED)
    assert "Canceled" in (await web.open(page_of(run))).text


async def test_while_temporal_is_away_a_decision_is_refused_and_stays_typed(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))
    page = await web.open(page_of(run))
    it.temporal.away = True

    refused = await web.send(page, "/approve", comment="kept")

    assert refused.status == 503
    assert "What you typed is still here" in refused.text
    assert refused.form("/approve").fields["comment"] == "kept"


# -- what moves -----------------------------------------------------------------------------------------------------------


@requirement("page:live")
async def test_news_arrive_while_one_waits_for_them_and_only_then(it: FrontService, web: Browser) -> None:
    it.engine.want(("a", "create"), ("b", "create"))
    it.engine.hold_applies = True
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))
    sent = await web.send(await web.open(page_of(run)), "/approve")
    await it.reaches(run["run_id"], RunState.APPLYING)
    folder = await it.launched()
    page = await web.open(page_of(run))
    (standing,) = [given for _, given in page.elements if given.get("id") == "standing"]
    assert sent.status == 200 and "data-ended" not in standing

    waiting = asyncio.create_task(web.http.get(f"{web.address}{page_of(run)}/live?after={standing['data-cursor']}"))
    (folder / "go").touch()
    async with asyncio.timeout(PATIENCE):
        news = Page(await waiting)

    (after,) = [given for _, given in news.elements if given.get("id") == "standing"]
    assert int(after["data-cursor"]) > int(standing["data-cursor"])
    assert {given["id"] for _, given in news.elements if "data-live" in given} == {"standing", "decide", "timeline", "log"}
    await it.reaches(run["run_id"], RunState.APPLIED)
    ended = Page(await web.http.get(f"{web.address}{page_of(run)}/live?after=0"))
    assert "data-ended" in next(given for _, given in ended.elements if given.get("id") == "standing")
    cursor = next(given for _, given in ended.elements if given.get("id") == "standing")["data-cursor"]
    assert (await web.http.get(f"{web.address}{page_of(run)}/live?after={cursor}")).status_code == 204
    for wrong in ("x", "-1", "9" * 20, "1;2"):
        assert (await web.http.get(f"{web.address}{page_of(run)}/live?after={wrong}")).status_code == 400


async def test_what_an_apply_did_that_nobody_approved_stands_on_top_of_its_page_and_in_the_list(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    await web.sign_in(await it.key(ANA, "approver"))
    store = it.front.store
    async with store.begin() as tx:
        row = await runs.get_run(tx, it.org, run["run_id"])
        await runs.alarm(tx, row, at=store.now(), attempt="att_x", message="deletes <b>more</b> than 0", guard="alarm")

    page = await web.open(page_of(run))

    assert "It did what nobody approved. deletes <b>more</b> than 0" in page.text
    assert page.text.index("nobody approved") < page.text.index("Plan 1 to add")
    assert ("div", {"class": "problem alarm", "role": "alert"}) in page.elements
    assert "did what nobody approved" in (await web.open("/runs")).text


async def test_nothing_of_a_page_is_kept_by_anybody_in_between_but_files_that_never_change(it: FrontService, web: Browser) -> None:
    run = await asked(it)
    page = await web.sign_in(await it.key(ANA, "approver"), page_of(run))

    assert page.answer.headers["cache-control"] == "no-store"
    for name, given in page.elements:
        if name in ("script", "link", "img"):
            file = await web.http.get(f"{web.address}{given.get('src') or given['href']}")
            assert (file.status_code, file.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    assert json.dumps(web.cookies)
