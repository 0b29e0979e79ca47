"""What the pages decide without a request: the order a reviewer reads in, how much is shown, and which requests are taken."""

from typing import Any

import pytest
from starlette.requests import Request

from countersign.adapters.settings import Settings
from countersign.core.errors import InvalidArgument, RateLimited
from countersign.core.plan import ChangeClass
from countersign.core.run import RunState
from mcp_front.pages import guard
from mcp_front.pages.presenting import KINDS, STANDINGS, plan_page, timeline
from mcp_front.pages.signing import inside

pytestmark = pytest.mark.anyio
RUN = "run_" + "0" * 26


def change(address: str, action: str, **more: Any) -> dict[str, Any]:
    return {"address": address, "type": "t", "action": action, "change_class": action, "attributes": [], **more}


def attribute(name: str, before: str | None, after: str | None, **marks: bool) -> dict[str, Any]:
    return {"name": name, "before": before, "after": after, **marks}


def test_every_state_and_every_class_has_a_name_for_people() -> None:
    assert set(STANDINGS) == set(RunState)
    assert set(KINDS) == set(ChangeClass)


def test_what_destroys_is_read_first_whatever_the_order_of_the_plan() -> None:
    view = {
        "changes": [
            change("a.made", "create"),
            change("a.bucket", "delete", change_class="stateful_delete"),
            change("a.edited", "update"),
            change("a.again", "replace"),
            change("a.gone", "delete"),
        ]
    }

    page = plan_page(view)

    assert [(group.kind.title, [c.address for c in group.changes]) for group in page.groups] == [
        ("Destroys, with the data in it", ["a.bucket"]),
        ("Destroys", ["a.gone"]),
        ("Replaces", ["a.again"]),
        ("Creates", ["a.made"]),
        ("Changes in place", ["a.edited"]),
    ]
    assert page.summary[0] == ("Destroys, with the data in it", "destroys", 1)


def test_what_others_did_already_is_not_told_as_what_is_going_to_be_done() -> None:
    view = {"changes": [change("a.made", "create"), change("a.gone", "delete"), change("a.moved", "move")]}

    page = plan_page(view, happened=True)

    assert [group.kind.title for group in page.groups] == ["Gone", "Moves to another address", "Added"]
    assert page.summary[0] == ("Gone", "destroys", 1)


def test_an_attribute_stands_side_by_side_with_what_it_was_and_says_what_it_causes() -> None:
    rows = [
        attribute("size", "small", "large", forces_replacement=True),
        attribute("password", "(sensitive fp:aaaa)", "(sensitive fp:bbbb)", sensitive=True),
        attribute("id", None, "(known after apply)", unknown=True),
    ]

    (shown,) = plan_page({"changes": [change("a.b", "replace", attributes=rows, replace_paths=["size"])]}).groups[0].changes

    assert [(a.name, a.before, a.after, a.marks) for a in shown.attributes] == [
        ("size", "small", "large", ("forces replacement",)),
        ("password", "(sensitive fp:aaaa)", "(sensitive fp:bbbb)", ("sensitive",)),
        ("id", None, "(known after apply)", ("known after apply",)),
    ]
    assert (shown.columns, shown.opened) == ("both", True)
    assert shown.notes == (("replaced because of", "size"),)


@pytest.mark.parametrize(("action", "columns"), [("create", "after"), ("delete", "before"), ("update", "both"), ("forget", "before")])
def test_of_what_is_made_or_gone_only_the_side_there_is_gets_a_column(action: str, columns: str) -> None:
    (shown,) = plan_page({"changes": [change("a.b", action)]}).groups[0].changes

    assert shown.columns == columns


def test_a_plan_of_a_thousand_changes_is_told_in_pages_of_a_hundred_that_are_folded() -> None:
    rows = [attribute(f"a{n}", None, "x") for n in range(50)]
    view = {"changes": [change(f"t.x[{n:04}]", "create", attributes=rows, attributes_left_out=7) for n in range(950)], "total": 1200}

    page = plan_page(view, page=10)

    assert (page.first, page.last, page.pages, page.matching, page.total, page.untold) == (901, 950, 10, 950, 1200, 250)
    first = page.groups[0].changes[0]
    assert (first.address, len(first.attributes), first.left_out, first.opened) == ("t.x[0900]", 20, 37, False)
    assert plan_page(view, page=99).page == 10


def test_one_change_looked_at_alone_is_shown_with_every_attribute() -> None:
    rows = [attribute(f"a{n}", None, "x") for n in range(50)]
    view = {"changes": [change(f"t.x[{n}]", "create", attributes=rows) for n in range(20)]}

    page = plan_page(view, address="t.x[7]")

    (shown,) = page.groups[0].changes
    assert (page.matching, len(shown.attributes), shown.left_out, shown.opened) == (1, 50, 0, True)


def test_a_filter_by_action_counts_what_it_leaves_out() -> None:
    view = {"changes": [change("a", "create"), change("b", "delete")]}

    page = plan_page(view, action="delete")

    assert (page.matching, page.total, page.actions) == (1, 2, ("create", "delete"))


def test_the_timeline_says_who_agreed_and_who_was_refused_and_why() -> None:
    at = "2026-01-01T00:00:00.000000Z"
    events = [
        {"at": at, "kind": "state", "state": "pending", "body": {"by": "agent:claude"}},
        {"at": at, "kind": "refused", "state": "awaiting_approval", "body": {"by": "agent:claude", "message": "agents do not count"}},
        {"at": at, "kind": "decision", "state": "awaiting_approval", "body": {"by": "person:ana", "comment": "fine"}},
        {"at": at, "kind": "progress", "state": "applying", "body": {"done": 2, "total": 3, "current": "a.b"}},
        {"at": at, "kind": "queued", "state": "pending", "body": {"position": 2}},
        {"at": at, "kind": "state", "state": "applied", "body": {"evidence": ["exit code 0", "whole journal"], "plan_digest": "sha256:0"}},
    ]

    assert [(h.what, h.text) for h in timeline(events)] == [
        ("Asked for", "agent:claude"),
        ("Refused", "agent:claude: agents do not count"),
        ("Agreed", "person:ana: fine"),
        ("Progress", "2 of 3: a.b"),
        ("Queued", "position 2"),
        ("Applied", "evidence exit code 0, whole journal"),
    ]


# Which requests are taken.


def request(method: str = "POST", body: bytes = b"", **headers: str) -> Request:
    given = {"host": "127.0.0.1:8700", "content-type": "application/x-www-form-urlencoded", **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": "/",
        "query_string": b"",
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items()],
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


SETTINGS = Settings(data="/nowhere", public_url="https://cs.example.com")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({"sec_fetch_site": "same-origin", "origin": "null"}, True),
        ({"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:8700"}, True),
        ({"origin": "http://127.0.0.1:8700"}, True),
        ({"sec_fetch_site": "same-origin", "origin": "https://cs.example.com"}, True),
        ({}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://127.0.0.1:9999"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:8700"}, False),
        ({"sec_fetch_site": "same-site", "origin": "null"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "same-origin", "origin": "https://evil.example"}, False),
    ],
)
def test_only_a_page_of_ours_sends_forms(headers: dict[str, str], taken: bool) -> None:
    assert guard.from_own_page(request(**headers), SETTINGS) is taken


@pytest.mark.parametrize(
    ("to", "goes_to"),
    [
        ("/runs", "/runs"),
        (f"/runs/{RUN}", f"/runs/{RUN}"),
        (None, "/runs"),
        ("https://evil.example/", "/runs"),
        ("//evil.example", "/runs"),
        ("/\\evil.example", "/runs"),
        (f"/runs/{RUN}\n//evil.example", "/runs"),
        (f"/runs/{RUN}/approve", "/runs"),
        ("javascript:alert(1)", "/runs"),
    ],
)
def test_signing_in_leads_to_a_page_of_ours_whatever_the_link_says(to: str | None, goes_to: str) -> None:
    assert inside(to) == goes_to


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8700", True),
        ("localhost:1", True),
        ("cs.example.com", True),
        ("cs.example.com:8700", False),
        ("evil.example:8700", False),
        ("127.0.0.1:", False),
        ("127.0.0.1:8700.evil.example", False),
        ("127.0.0.1", False),
        ("", False),
    ],
)
def test_a_name_that_is_none_of_ours_gets_no_page(host: str, known: bool) -> None:
    assert guard.known_host(host, ["127.0.0.1:*", "localhost:*", "cs.example.com"]) is known


async def test_a_form_is_read_whole_or_not_at_all() -> None:
    assert await guard.form_of(request(body=b"comment=a%0D%0Ab+c&empty=")) == {"comment": "a\nb c", "empty": ""}
    for body in (b"x" * (guard.FORM + 1), b"&".join(b"a=b" for _ in range(30)), b"a=%ff", b"no form", "ä".encode()):
        with pytest.raises(InvalidArgument):
            await guard.form_of(request(body=body))
    with pytest.raises(InvalidArgument):
        await guard.form_of(request(body=b"{}", content_type="application/json"))


def test_a_form_is_good_for_its_own_session_only() -> None:
    token = guard.form_token("session-a")

    assert guard.holds_token({"token": token}, "session-a")
    assert not guard.holds_token({"token": token}, "session-b")
    assert not guard.holds_token({}, "session-a")
    assert not guard.holds_token({"token": "ä"}, "session-a")
    assert "session-a" not in token


def test_ten_failed_attempts_a_minute_are_enough_for_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    attempts = guard.Attempts()
    for _ in range(10):
        attempts.check("10.0.0.1")
        attempts.failed("10.0.0.1")

    with pytest.raises(RateLimited, match="try again in 60 seconds"):
        attempts.check("10.0.0.1")
    attempts.check("10.0.0.2")
    now[0] += 60
    attempts.check("10.0.0.1")


def test_links_begin_with_the_public_address_where_there_is_one() -> None:
    assert Settings(data="/nowhere").links_url == "http://127.0.0.1:8700"  # type: ignore[arg-type]
    assert SETTINGS.links_url == "https://cs.example.com"
    assert Settings(data="/nowhere", public_url="https://cs.example.com/").links_url == "https://cs.example.com"  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["cs.example.com", "ftp://x", "https://", "https://a@b", "https://x/path", "https://x?q", "javascript:x"])
def test_a_public_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="write an address such as"):
        Settings(data="/nowhere", public_url=url)  # type: ignore[arg-type]


def test_the_temporal_ui_is_linked_where_people_can_open_it() -> None:
    def link(**given: Any) -> str | None:
        return Settings(data="/nowhere", **given).temporal_ui_link  # type: ignore[arg-type]

    assert link() == "http://127.0.0.1:8233"
    assert link(host="10.0.0.5") is None
    assert link(temporal_address="temporal:7233") is None
    assert link(temporal_address="temporal:7233", temporal_ui_public_url="https://temporal.example.com") == "https://temporal.example.com"
