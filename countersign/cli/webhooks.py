"""What `countersign webhook …` does."""

import secrets as random

from rich.text import Text

from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import Settings, WebhookSettings
from countersign.adapters.store import outbox
from countersign.adapters.store.database import stamp
from countersign.adapters.store.outbox import DEAD, DELIVERED, PENDING, Delivery
from countersign.cli.exits import Exit
from countersign.cli.output import console, emit, rows, safe
from countersign.cli.store import opened, organization
from countersign.core.errors import InvalidArgument, NotFound
from countersign.core.ids import derive
from countersign.core.notice import trial_document

_STYLES = {DELIVERED: "green", PENDING: "yellow", DEAD: "bold red"}


def _named(settings: Settings, name: str) -> WebhookSettings:
    for hook in settings.webhooks:
        if hook.name == name:
            return hook
    known = ", ".join(hook.name for hook in settings.webhooks) or "none: write [[webhooks]] in countersign.toml"
    raise NotFound(f"no webhook {name[:64]!r}; there are {known}", field="name")


async def show(settings: Settings, *, as_json: bool) -> Exit:
    async with opened(settings) as store, store.read() as conn:
        counts = await outbox.counted(conn)
    unknown = sorted(set(counts) - {hook.name for hook in settings.webhooks})
    if as_json:
        told = [
            {
                "name": hook.name,
                "url": hook.shown,
                "events": [str(e) for e in hook.events],
                "environments": list(hook.environments),
                "secret": hook.secret,
                "previous_secret": hook.previous_secret,
                **{state: counts.get(hook.name, {}).get(state, 0) for state in (PENDING, "late", DELIVERED, DEAD)},
            }
            for hook in settings.webhooks
        ]
        emit({"webhooks": told, "not_in_settings": unknown})
        return Exit.OK
    lines = [
        (
            hook.name,
            hook.shown,
            ", ".join(hook.events),
            ", ".join(hook.environments),
            *(str(counts.get(hook.name, {}).get(state, 0)) for state in (PENDING, "late", DELIVERED, DEAD)),
        )
        for hook in settings.webhooks
    ]
    columns = ("name", "to", "tells", "environments", "pending", "late", "delivered", "dead")
    console().print(rows("webhooks in countersign.toml", columns, lines))
    for name in unknown:
        console().print(safe(f"deliveries of {name}, which is not in the settings any more, wait or are kept", "yellow"))
    return Exit.OK


async def test(settings: Settings, name: str, *, org: str | None, as_json: bool) -> Exit:
    from countersign.worker.telling import send_trial

    hook = _named(settings, name)
    async with opened(settings) as store:
        id = derive("evt", "trial", name, random.token_hex(16))
        text = trial_document(id=id, source=settings.links_url, at=stamp(store.now()), webhook=name)
        answer = await send_trial(
            store, Keyring.open(settings.data, role="operator"), hook, org=organization(settings, org), id=id, text=text
        )
    if as_json:
        emit({"ok": answer.ok, "event_id": id, "status": answer.status, "answer": answer.said, "seconds": round(answer.took, 3)})
        return Exit.OK if answer.ok else Exit.FAILED
    took = f"{1000 * answer.took:.0f} ms"
    if answer.ok:
        console().print(safe(f"{hook.shown} took {id}: {answer.status} after {took}", "green"))
        if answer.said:
            console().print(safe(f"it answered: {answer.said}", "dim"))
        return Exit.OK
    console().print(safe(f"{hook.shown} did not take it ({took}): {answer.said}", "red"))
    return Exit.FAILED


async def deliveries(settings: Settings, name: str | None, *, dead: bool, limit: int, org: str | None, as_json: bool) -> Exit:
    if name is not None:
        _named(settings, name)
    async with opened(settings) as store, store.read() as conn:
        found = await outbox.listed(conn, organization(settings, org), states=(DEAD,) if dead else (), webhook=name, limit=limit)
    if as_json:
        emit({"deliveries": [_document(one) for one in found]})
        return Exit.OK
    lines = [
        (
            one.event_id,
            one.webhook,
            str(one.moment),
            one.run_id,
            Text(one.state, style=_STYLES[one.state]),
            str(one.attempts),
            f"{one.at:%Y-%m-%d %H:%M:%S}",
            one.said,
        )
        for one in found
    ]
    console().print(rows("deliveries", ("event", "webhook", "tells", "run", "is", "tried", "at (UTC)", "why"), lines))
    return Exit.OK


async def retry(settings: Settings, event: str | None, *, webhook: str | None, every: bool, org: str | None, as_json: bool) -> Exit:
    if (event is None) is not every:
        raise InvalidArgument("name an event, or give --all", field="event")
    if webhook is not None:
        _named(settings, webhook)
    async with opened(settings) as store:
        count = await outbox.again(store, org=organization(settings, org), event=event, webhook=webhook)
    if as_json:
        emit({"retried": count})
    else:
        console().print(safe(f"{count} delivery(ies) will be tried again" if count else "nothing was given up"))
    return Exit.OK


def _document(one: Delivery) -> dict[str, object]:
    return {
        "event_id": one.event_id,
        "webhook": one.webhook,
        "tells": str(one.moment),
        "run_id": one.run_id,
        "state": one.state,
        "attempts": one.attempts,
        "at": stamp(one.at),
        "next_at": stamp(one.next_at) if one.state == PENDING else None,
        "status": one.status,
        "why": one.said or None,
    }
