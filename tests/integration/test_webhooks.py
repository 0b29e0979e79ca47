"""Telling a chat or a pager, over real HTTP to a receiver that is up, slow, dead, or says no."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters import webhook
from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import Settings, WebhookSettings
from countersign.adapters.store import outbox, runs, secrets
from countersign.adapters.store.outbox import DEAD, DELIVERED, PENDING, Delivery
from countersign.adapters.webhook import Sender
from countersign.core.principal import SYSTEM
from countersign.core.run import RunState
from countersign.worker.telling import TAKEN, Teller, keep_telling
from tests.integration.front import ANA, CLAUDE, FrontService, front_service, moved_clock
from tests.postgres import BOTH, database_of
from tests.receiver import OK, Receiver, answering, receiver
from tests.requirements import requirement
from tests.service import eventually

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + "c2lnbmluZy1rZXktb2YtdGhlLXRlc3Qh"
CANARY = "canary-9f1c2b7e4d"
WAITING, ENDED, OPERATOR = "countersign.run.waiting", "countersign.run.ended", "countersign.run.needs_operator"
Telling = Callable[..., Awaitable[Teller]]


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FrontService]:
    with database_of(request) as database:
        async with front_service(tmp_path, database=database) as running:
            running.engine.want(("a", "create"))
            await running.stack()
            await running.stack("main", env="prod")
            await secret(running, "chat", SECRET)
            yield running


@pytest.fixture
async def telling(it: FrontService) -> AsyncIterator[Telling]:
    """Makes what a worker with these webhooks would have; nothing of it outlives the test."""
    async with contextlib.AsyncExitStack() as made:

        async def tell(*hooks: WebhookSettings) -> Teller:
            sender = Sender()
            teller = Teller(it.front.store, keyring(it), settings(it, *hooks), sender)
            made.push_async_callback(sender.close)
            made.push_async_callback(teller.close)
            return teller

        yield tell


def hook(to: Receiver | str, name: str = "chat", **given: Any) -> WebhookSettings:
    return WebhookSettings(name=name, url=to if isinstance(to, str) else to.url, **{"secret": "chat", **given})


def settings(it: FrontService, *hooks: WebhookSettings) -> Settings:
    return it.front.settings.model_copy(update={"webhooks": hooks})


def keyring(it: FrontService) -> Keyring:
    return Keyring.open(it.front.settings.data, role="worker")


async def secret(it: FrontService, slug: str, value: str) -> None:
    await secrets.put(it.front.store, Keyring.open(it.front.settings.data, role="operator"), org="acme", slug=slug, value=value, by=SYSTEM)


async def asked(it: FrontService, *, env: str = "dev", **given: Any) -> dict[str, Any]:
    """A run that waits for people."""
    async with it.as_(CLAUDE, "platform") as agent:
        run: dict[str, Any] = (await agent.call("apply_terraform", env=env, wait_seconds=20, **given))["run"]
    assert run["state"] == "awaiting_approval"
    return run


async def agreed(it: FrontService, run: dict[str, Any]) -> None:
    async with it.as_(ANA, "approver") as ana:
        await ana.call("run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
    await it.reaches(run["run_id"], RunState.APPLIED)


async def told(teller: Teller) -> None:
    """One round to its end."""
    await teller.round()
    await teller.finished()


async def rows(it: FrontService) -> list[Delivery]:
    async with it.front.store.read() as conn:
        return await outbox.listed(conn, "acme")


async def only(it: FrontService) -> Delivery:
    (one,) = await rows(it)
    return one


# -- what arrives ---------------------------------------------------------------------------------------------------------


@requirement("webhook:what-is-told", "webhook:signed")
async def test_who_waits_and_what_ended_is_told_signed_and_without_what_the_plan_says(it: FrontService, telling: Telling) -> None:
    it.engine.want(("null_resource." + CANARY, "create"))
    async with receiver() as chat:
        teller = await telling(hook(chat))
        run = await asked(it, message=CANARY, vars={"password": CANARY})
        await told(teller)
        await agreed(it, run)
        await told(teller)
        first, second = chat.got

    assert (first.kind, second.kind) == (WAITING, ENDED)
    assert all(sent.signed_with(SECRET) for sent in chat.got)
    assert not first.signed_with("whsec_" + "c2lnbmluZy1rZXktb2Ytc29tZWJvZHkh")
    assert first.path == "/hooks/countersign"
    assert first.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert first.headers["webhook-id"] == first.event["id"] != second.event["id"]
    data = first.event["data"]
    assert first.event["specversion"] == "1.0"
    assert first.event["subject"] == data["run_id"] == run["run_id"]
    assert data["url"] == run["approval"]["url"]
    assert (data["requester"], data["acts_for"]) == ("agent:claude", "person:ana")
    assert (data["environment"], data["stack"], data["change_class"]) == ("acme/dev", "acme/dev/main", "create")
    assert data["counts"]["create"] == 1
    assert data["approval"] == {"by": "a person", "people": 1, "typed_name": False}
    assert second.event["data"]["state"] == "applied"
    assert not any(CANARY in sent.body.decode() for sent in chat.got)
    assert [one.state for one in await rows(it)] == [DELIVERED, DELIVERED]


async def test_an_operator_is_called_when_a_run_needs_one_and_not_when_it_only_passes_through(it: FrontService, telling: Telling) -> None:
    async with receiver() as pager:
        teller = await telling(hook(pager, events=("needs_operator",)))
        run = await it.run((await asked(it))["run_id"])
        async with it.front.store.begin() as tx:
            passed = await runs.pass_through(tx, run, RunState.NEEDS_OPERATOR, at=it.front.store.now())
            run = await runs.move(tx, passed, RunState.RECONCILING, at=it.front.store.now())
        await told(teller)
        assert pager.got == []
        async with it.front.store.begin() as tx:
            await runs.move(tx, run, RunState.NEEDS_OPERATOR, at=it.front.store.now(), code="interrupted")
        await told(teller)

    (sent,) = pager.got
    assert sent.kind == OPERATOR
    assert sent.event["data"]["text"].startswith("apply_terraform on acme/dev/main needs an operator; its state is blocked until then")


async def test_an_apply_that_does_what_nobody_approved_calls_somebody_once_and_names_no_address(it: FrontService, telling: Telling) -> None:
    async with receiver() as pager:
        teller = await telling(hook(pager, events=("alarm",)))
        run = await it.run((await asked(it))["run_id"])
        async with it.front.store.begin() as tx:
            for message in (f"{CANARY}.a: its delete was begun", f"{CANARY}.b: its delete was begun"):
                run = await runs.alarm(tx, run, at=it.front.store.now(), attempt="att_1", message=message, guard="alarm")
        await told(teller)

    (sent,) = pager.got
    assert sent.kind == "countersign.run.alarm"
    assert "does what nobody approved; look at it now" in sent.event["data"]["text"]
    assert CANARY not in sent.body.decode()


async def test_what_did_not_happen_is_not_told(it: FrontService, telling: Telling) -> None:
    async with receiver() as chat:
        teller = await telling(hook(chat))
        run = await it.run((await asked(it))["run_id"])
        await told(teller)
        with contextlib.suppress(ZeroDivisionError):
            async with it.front.store.begin() as tx:
                await runs.move(tx, run, RunState.REJECTED, at=it.front.store.now())
                raise ZeroDivisionError
        await told(teller)

        assert [sent.kind for sent in chat.got] == [WAITING]


async def test_each_webhook_hears_of_its_events_and_environments_only(it: FrontService, telling: Telling) -> None:
    async with receiver() as every, receiver() as prod, receiver() as ends:
        teller = await telling(hook(every), hook(prod, "prod", environments=("*/prod",)), hook(ends, "ends", events=("ended",)))
        await asked(it, env="prod")
        run = await asked(it, env="dev")
        await agreed(it, run)
        await told(teller)

        environments = sorted(sent.event["data"]["environment"] for sent in every.got)
        assert environments == ["acme/dev", "acme/dev", "acme/prod"]
        assert [sent.event["data"]["environment"] for sent in prod.got] == ["acme/prod"]
        assert [(sent.kind, sent.event["data"]["run_id"]) for sent in ends.got] == [(ENDED, run["run_id"])]


async def test_a_webhook_that_is_set_later_is_not_flooded_with_the_past(it: FrontService, telling: Telling) -> None:
    await asked(it)
    with moved_clock(it.front.store, hours=25):
        await asked(it, env="prod")
        await outbox.forget_unaddressed(it.front.store)  # by a worker without webhooks, beside one that is down
    async with receiver() as chat:
        await told(await telling(hook(chat)))

        assert [sent.event["data"]["environment"] for sent in chat.got] == ["acme/prod"]


# -- when it does not arrive ----------------------------------------------------------------------------------------------


@requirement("webhook:at-least-once")
async def test_what_fails_is_sent_again_under_the_same_id_byte_for_byte(it: FrontService, telling: Telling) -> None:
    async with receiver(answering(500, "out of order"), answering(503, "", "Retry-After: 120"), OK) as chat:
        teller = await telling(hook(chat))
        await asked(it)
        await told(teller)
        failed = await only(it)
        await told(teller)  # too early: nothing is sent
        with moved_clock(it.front.store, seconds=10):
            await told(teller)
        with moved_clock(it.front.store, seconds=100):
            await told(teller)  # the receiver asked for two minutes
        with moved_clock(it.front.store, seconds=140):
            await told(teller)
        first, second, third = chat.got

    assert (failed.state, failed.attempts, failed.status, failed.said) == (PENDING, 1, 500, "500 As the test says: out of order")
    assert first.body == second.body == third.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == third.headers["webhook-id"]
    assert third.signed_with(SECRET)
    done = await only(it)
    assert (done.state, done.attempts, done.status) == (DELIVERED, 3, 204)


@requirement("webhook:at-least-once")
async def test_a_worker_that_dies_while_sending_leaves_the_delivery_to_the_next_one(it: FrontService, telling: Telling) -> None:
    async with receiver(None, OK) as chat:
        dying, next_one = await telling(hook(chat)), await telling(hook(chat))
        await asked(it)
        await dying.round()
        await chat.count(1)
        await dying.close()
        await told(next_one)
        assert len(chat.got) == 1  # it may still be under way
        with moved_clock(it.front.store, seconds=TAKEN.total_seconds() + 1):
            await told(next_one)

        assert [sent.headers["webhook-id"] for sent in chat.got] == [chat.got[0].event["id"]] * 2
        assert (await only(it)).state == DELIVERED


async def test_two_workers_share_the_deliveries(it: FrontService, telling: Telling) -> None:
    async with receiver() as chat:
        one, other = await telling(hook(chat)), await telling(hook(chat))
        run = await asked(it)
        await asked(it, env="prod")
        await agreed(it, run)
        for _ in range(3):
            await asyncio.gather(told(one), told(other))

        assert len({sent.event["id"] for sent in chat.got}) == len(chat.got) == 3


@requirement("webhook:dead-letters")
async def test_after_its_last_attempt_it_is_a_dead_letter_that_can_be_sent_again(it: FrontService, telling: Telling) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}/hook"
        teller = await telling(hook(dead, attempts=2))
        await asked(it)
        await told(teller)
        with moved_clock(it.front.store, minutes=1):
            await told(teller)
        given_up = await only(it)
        with moved_clock(it.front.store, days=2):
            await told(teller)
        assert (await only(it)).attempts == 2
    assert (given_up.state, given_up.status) == (DEAD, None)
    assert given_up.said
    async with it.front.store.read() as conn:
        assert (await outbox.counted(conn))["chat"]["dead"] == 1

    assert await outbox.again(it.front.store, org="acme", event=given_up.event_id) == 1
    async with receiver() as chat:
        await told(await telling(hook(chat)))
        assert [sent.event["id"] for sent in chat.got] == [given_up.event_id]


async def test_a_receiver_that_wants_nothing_any_more_is_asked_once(it: FrontService, telling: Telling) -> None:
    async with receiver(answering(410)) as chat:
        await asked(it)
        await told(await telling(hook(chat)))

        assert (await only(it)).state == DEAD


@requirement("webhook:delays-nothing")
async def test_receivers_that_never_answer_delay_no_run_and_no_other_receiver(it: FrontService) -> None:
    stop = asyncio.Event()
    async with receiver(None) as hanging, receiver() as chat:
        configured = settings(it, hook(hanging, "hanging"), hook(chat))
        working = asyncio.create_task(keep_telling(it.front.store, keyring(it), configured, stop))
        try:
            for env in ("dev", "prod"):
                await asked(it, env=env)
            run = await asked(it, env="dev", vars={"n": 2})
            await agreed(it, run)

            await chat.of(ENDED)
            assert len(hanging.got) >= 1
            assert all(one.state == PENDING for one in await rows(it) if one.webhook == "hanging")
        finally:
            stop.set()
            async with asyncio.timeout(5):
                await working


@pytest.mark.parametrize("trickle", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nslowly"])
async def test_a_receiver_that_does_not_come_to_an_end_is_left(
    it: FrontService, telling: Telling, monkeypatch: pytest.MonkeyPatch, trickle: bytes
) -> None:
    monkeypatch.setattr(webhook, "WITHIN", 0.3)
    async with hung(trickle) as url:
        teller = await telling(hook(url))
        await asked(it)
        await told(teller)

    one = await only(it)
    assert (one.state, one.said) == (PENDING, "no whole answer within 0.3 s")


@contextlib.asynccontextmanager
async def hung(beginning: bytes) -> AsyncIterator[str]:
    """Says a beginning, and keeps the connection open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1024):
                pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()


async def test_an_answer_of_any_size_is_read_to_its_beginning_only(it: FrontService, telling: Telling) -> None:
    async with receiver(answering(500, "x" * (20 << 20))) as chat:
        await asked(it)
        await told(await telling(hook(chat)))

    assert len((await only(it)).said or "") <= 300


async def test_what_a_receiver_says_of_its_address_tells_nobody_the_secret_in_it(it: FrontService, telling: Telling) -> None:
    path = "/services/T024BE7/Zk3vQm9sXw1pRt7yLb2nCd8f"
    async with receiver(answering(404, f"Cannot POST {path}?thread=c2VjcmV0LXRocmVhZA%3D%3D (c2VjcmV0LXRocmVhZA==)")) as chat:
        await asked(it)
        address = chat.url.rpartition("/")[0] + f"{path}?thread=c2VjcmV0LXRocmVhZA%3D%3D"
        await told(await telling(hook(address)))

    assert (await only(it)).said == "404 As the test says: Cannot POST /services/T024BE7/(redacted)?thread=(redacted) ((redacted))"


async def test_redirects_are_not_followed(it: FrontService, telling: Telling) -> None:
    async with receiver() as elsewhere, receiver(answering(307, "", f"Location: {elsewhere.url}")) as chat:
        await asked(it)
        await told(await telling(hook(chat)))

        assert elsewhere.got == []
    assert (await only(it)).said == "a redirect (307), which is not followed; set the address it points to"


async def test_a_public_name_that_leads_to_this_machine_is_refused_unless_it_is_meant(
    it: FrontService, telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bent(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "hooks.example.com"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", bent)
    async with receiver() as chat:
        url = f"http://hooks.example.com:{chat.port}/hook"
        await asked(it)
        await told(await telling(hook(url)))
        assert chat.got == []
        assert "leads to an address of this machine or a private network" in str((await only(it)).said)

        with moved_clock(it.front.store, minutes=1):
            await told(await telling(hook(url, allow_private=True)))
        assert [sent.headers["host"] for sent in chat.got] == [f"hooks.example.com:{chat.port}"]


# -- secrets --------------------------------------------------------------------------------------------------------------


async def test_a_secret_is_changed_without_a_delivery_that_does_not_fit(it: FrontService, telling: Telling) -> None:
    new = "the new secret, long enough"
    await secret(it, "chat-new", new)
    async with receiver() as chat:
        await asked(it)
        await told(await telling(hook(chat, secret="chat-new", previous_secret="chat")))
        await asked(it, env="prod")
        await told(await telling(hook(chat, secret="chat-new")))
        both, later = chat.got

    assert both.signed_with(SECRET)
    assert both.signed_with(new)
    assert later.signed_with(new)
    assert not later.signed_with(SECRET)


async def test_without_its_secret_nothing_is_sent_and_the_command_that_sets_it_is_named(it: FrontService, telling: Telling) -> None:
    async with receiver() as chat:
        teller = await telling(hook(chat, secret="later"))
        await asked(it)
        await told(teller)
        assert chat.got == []
        assert (await only(it)).said == "the secret later is not set; set it with `countersign secret set later`"
        await secret(it, "later", SECRET)
        with moved_clock(it.front.store, minutes=1):
            await told(teller)

        assert chat.got[0].signed_with(SECRET)


# -- the record -----------------------------------------------------------------------------------------------------------


async def test_what_was_delivered_is_forgotten_after_a_month_and_dead_letters_after_a_quarter(it: FrontService, telling: Telling) -> None:
    async with receiver() as chat, receiver(answering(410)) as gone:
        await asked(it)
        await told(await telling(hook(chat), hook(gone, "gone")))
    with moved_clock(it.front.store, days=31):
        await outbox.prune(it.front.store)
        assert [one.webhook for one in await rows(it)] == ["gone"]
    with moved_clock(it.front.store, days=91):
        await outbox.prune(it.front.store)
        assert await rows(it) == []
    async with it.front.store.read() as conn:
        assert (await conn.execute(outbox.outbox.select())).all() == []


async def test_a_mistake_in_one_round_does_not_end_the_telling(it: FrontService, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, broken = asyncio.Event(), asyncio.Event()
    real = Teller.round

    async def once_broken(teller: Teller) -> None:
        if not broken.is_set():
            broken.set()
            raise ZeroDivisionError
        await real(teller)

    monkeypatch.setattr(Teller, "round", once_broken)
    async with receiver() as chat:
        working = asyncio.create_task(keep_telling(it.front.store, keyring(it), settings(it, hook(chat)), stop))
        await asked(it)
        await chat.of(WAITING)
        stop.set()
        await working

    assert broken.is_set()


async def test_the_deliveries_of_a_receiver_that_comes_back_arrive_by_themselves(it: FrontService) -> None:
    """With the loop a worker runs and no clock moved: the first wait is seconds."""
    stop = asyncio.Event()
    async with receiver(answering(502), OK) as chat:
        working = asyncio.create_task(keep_telling(it.front.store, keyring(it), settings(it, hook(chat)), stop))
        await asked(it)
        first, second = await chat.count(2)

        async def settled() -> bool:
            return (await only(it)).state == DELIVERED

        await eventually(settled, "the delivery to be recorded")
        stop.set()
        await working

    assert first.headers["webhook-id"] == second.headers["webhook-id"]
