"""Telling a chat or a pager: notices become deliveries, and deliveries go out, beside everything else the worker does.

Nothing waits for a receiver. One that is slow or dead holds only its own few places; what fails is tried again later and later, and
is a dead letter after its last attempt, which `countersign doctor` shows. A notice is sent at least once, always under the same id.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from countersign.adapters.keyring import Keyring
from countersign.adapters.logs import Log
from countersign.adapters.settings import Settings, WebhookSettings
from countersign.adapters.store import outbox, plans, secrets
from countersign.adapters.store.database import Store
from countersign.adapters.store.outbox import DEAD, DELIVERED, PENDING, Delivery
from countersign.core.errors import CountersignError, FailedPrecondition
from countersign.core.notice import Moment, document, signing_key, wait_after

if TYPE_CHECKING:
    from countersign.adapters.webhook import Answer, Sender  # loaded where there is a webhook at all

log = Log(__name__)
EVERY = 0.5  # seconds between two looks at what has to be told
IDLE = 60.0  # the same where no webhook is set: only to forget what nobody wants
PRUNE = 3600.0
AT_ONCE = 4  # attempts under way for one webhook
TAKEN = timedelta(seconds=45)  # an attempt is bounded to a fraction of it; then another worker may try
CHANCE = 0.2  # of each wait, so that receivers that come back are not met by everybody at once


class Teller:
    """One worker's share of telling. Several workers on one store share the deliveries."""

    def __init__(self, store: Store, keyring: Keyring, settings: Settings, sender: "Sender") -> None:
        self._store = store
        self._keyring = keyring
        self._settings = settings
        self._sender = sender
        self._under_way: dict[str, set[asyncio.Task[None]]] = {hook.name: set() for hook in settings.webhooks}

    async def round(self) -> None:
        """Address what is new, and begin whatever is due and has a place."""
        await self.address()
        for hook in self._settings.webhooks:
            under_way = self._under_way[hook.name]
            if free := AT_ONCE - len(under_way):
                async with self._store.read() as conn:
                    found = await outbox.due(conn, hook.name, now=self._store.now(), limit=free)
                for one in found:
                    task = asyncio.create_task(self._attempted(hook, one))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)

    async def finished(self) -> None:
        """Wait for the attempts under way."""
        await asyncio.gather(*(task for tasks in self._under_way.values() for task in tasks))

    async def close(self) -> None:
        """Give up what is under way: it is tried again by whoever comes next."""
        tasks = [task for tasks in self._under_way.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def address(self) -> int:
        """Turn notices into deliveries; how many notices there were."""
        async with self._store.read() as conn:
            if not await outbox.is_anything_waiting(conn):
                return 0
        async with self._store.begin() as tx:
            found = await outbox.waiting(tx)
            for notice in found:
                facts, to = notice.facts, self._wanting(notice.moment, notice.facts.env)
                plan = await plans.get_plan(tx, facts.org, facts.run_id, facts.plan_number) if to and facts.plan_number else None
                text = document(
                    facts,
                    notice.moment,
                    id=notice.id,
                    counts=plan.summary.counts if plan else None,
                    source=self._settings.links_url,
                    url=f"{self._settings.links_url}/runs/{facts.run_id}",
                )
                await outbox.address(tx, notice, document=text, to=to, at=self._store.now())
        return len(found)

    def _wanting(self, moment: Moment, env: str) -> list[str]:
        return [hook.name for hook in self._settings.webhooks if hook.wants(moment, env)]

    async def _attempted(self, hook: WebhookSettings, one: Delivery) -> None:
        try:
            await self.attempt(hook, one)
        except CountersignError as away:  # the store: the delivery is anybody's again in a while
            log.warning("a delivery could not be recorded", webhook=hook.name, event_id=one.event_id, reason=away.message)

    async def attempt(self, hook: WebhookSettings, one: Delivery) -> None:
        """One attempt at one delivery, unless another worker has it."""
        if not await outbox.take(self._store, one, until=self._store.now() + TAKEN):
            return
        assert one.document is not None  # deliveries are made with it
        attempts = one.attempts + 1
        try:
            keys = await signing_keys(self._store, self._keyring, hook, one.org)
        except CountersignError as unsigned:
            status, said, after, over = None, unsigned.message, None, False
        else:
            answer = await self._sender.post(hook.url, id=one.event_id, document=one.document, keys=keys, allow_private=hook.allow_private)
            if answer.ok:
                await outbox.settle(self._store, one, state=DELIVERED, status=answer.status, said="", next_at=self._store.now())
                return
            status, said, after, over = answer.status, answer.said, answer.retry_after, answer.gone
        dead = over or attempts >= hook.attempts
        wait = max(wait_after(attempts) * (1 + CHANCE * random.random()), timedelta(seconds=after or 0))  # noqa: S311  no secret
        await outbox.settle(self._store, one, state=DEAD if dead else PENDING, status=status, said=said, next_at=self._store.now() + wait)
        tell = log.error if dead else log.warning
        tell(
            "a webhook was given up" if dead else "a webhook failed",
            webhook=hook.name,
            event_id=one.event_id,
            attempt=attempts,
            of=hook.attempts,
            reason=said,
        )


async def signing_keys(store: Store, keyring: Keyring, hook: WebhookSettings, org: str) -> list[bytes]:
    """What deliveries of an organization's runs are signed with, looked up every time, so that a new secret counts at once."""
    keys = []
    async with store.read() as conn:
        for slug in hook.secrets:
            if not await secrets.version(conn, org, slug):
                raise FailedPrecondition(f"the secret {slug} is not set; set it with `countersign secret set {slug}`", field="secret")
            try:
                keys.append(signing_key(await secrets.reveal(conn, keyring, org, slug)))
            except FailedPrecondition as weak:
                raise FailedPrecondition(f"the secret {slug}: {weak.message}", field="secret") from None
    return keys


async def send_trial(store: Store, keyring: Keyring, hook: WebhookSettings, *, org: str, id: str, text: str) -> "Answer":
    """Send one document now, outside of any record."""
    from countersign.adapters.webhook import Sender

    keys = await signing_keys(store, keyring, hook, org)
    sender = Sender()
    try:
        return await sender.post(hook.url, id=id, document=text, keys=keys, allow_private=hook.allow_private)
    finally:
        await sender.close()


async def keep_telling(store: Store, keyring: Keyring, settings: Settings, stop: asyncio.Event) -> None:
    """Until `stop`. Whatever goes wrong in one round is logged, and there is a next one."""
    if not settings.webhooks:
        await _every(IDLE, stop, partial(outbox.forget_unaddressed, store))
        return
    from countersign.adapters.webhook import Sender

    sender = Sender()
    teller = Teller(store, keyring, settings, sender)
    pruning = asyncio.create_task(_every(PRUNE, stop, partial(outbox.prune, store)))
    try:
        await _every(EVERY, stop, teller.round)
        await pruning
    finally:
        pruning.cancel()
        await teller.close()
        await sender.close()


async def _every(seconds: float, stop: asyncio.Event, do: Callable[[], Awaitable[None]]) -> None:
    while not stop.is_set():
        try:
            await do()
        except CountersignError as failed:
            log.warning("telling put off", reason=failed.message)
        except Exception as broken:  # a mistake of ours must not end the worker, whose runs matter more
            log.error("telling failed", reason=type(broken).__name__, exc_info=True)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
