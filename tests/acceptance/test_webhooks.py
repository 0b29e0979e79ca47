"""Who is told, with the service as installed: `countersign.toml`, a secret, a run, and a receiver that was away meanwhile."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tests.acceptance.conftest import STACKS
from tests.acceptance.installed import Installed, call, eventually, until
from tests.receiver import Receiver, receiver
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + "c2lnbmluZy1rZXktb2YtdGhlLXRlc3Qh"


@pytest.fixture
async def chat() -> AsyncIterator[Receiver]:
    async with receiver() as it:
        yield it


@pytest.fixture
async def it(tmp_path: Path, chat: Receiver) -> AsyncIterator[Installed]:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "countersign.toml").write_text(
        f'[[webhooks]]\nname = "chat"\nurl = "{chat.url}"\nsecret = "chat"\n'
        # Nobody listens there. It is the operator who wrote it, so it is tried.
        '[[webhooks]]\nname = "away"\nurl = "http://127.0.0.1:9/hook"\nsecret = "chat"\nattempts = 1\n'
    )
    it = Installed(data=data, stacks=STACKS)
    it.start()
    try:
        await it.ready()
        yield it
    finally:
        it.stop()


async def cli(it: Installed, *words: str, **options: Any) -> str:
    """In a thread: the receiver of this test answers meanwhile."""
    return await anyio.to_thread.run_sync(lambda: it.cli(*words, **options))


@requirement("webhook:what-is-told", "webhook:dead-letters", "webhook:delays-nothing")
async def test_a_chat_hears_who_waits_and_what_ended_and_the_doctor_shows_who_did_not(it: Installed, chat: Receiver) -> None:
    unset = json.loads(await cli(it, "webhook", "test", "chat", "--json", code=1))
    assert "countersign secret set chat" in unset["error"]["message"]
    await cli(it, "secret", "set", "chat", stdin=SECRET)

    tried = json.loads(await cli(it, "webhook", "test", "chat", "--json"))
    assert (tried["ok"], tried["status"]) == (True, 204)
    assert chat.got[0].event["id"] == tried["event_id"]
    assert chat.got[0].signed_with(SECRET)
    refused = json.loads(await cli(it, "webhook", "test", "away", "--json", code=1))
    assert refused["status"] is None

    agent, person = it.key("claude", acts_for="person:ana"), it.key("ana", kind="person", role="approver")
    async with it.client(agent) as client, it.client(person) as ana:
        await call(client, "terraform_register_workspace", env="dev", workspace="told", source={"path": "small"})
        run = (await call(client, "apply_terraform", env="dev", workspace="told", wait_seconds=25))["run"]
        waiting = await chat.of("countersign.run.waiting")
        await call(ana, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
        await until(client, run["run_id"], "applied")
    ended = await chat.of("countersign.run.ended")

    assert waiting.event["data"]["run_id"] == ended.event["data"]["run_id"] == run["run_id"]
    assert waiting.event["data"]["url"] == run["approval"]["url"]
    assert ended.event["data"]["state"] == "applied"
    assert all(sent.signed_with(SECRET) for sent in chat.got)

    async def given_up() -> Any:
        return json.loads(await cli(it, "webhook", "deliveries", "away", "--dead", "--json"))["deliveries"]

    dead = await eventually(given_up, "the delivery to the dead receiver to be given up")
    assert {one["webhook"] for one in dead} == {"away"}
    findings = {f["what"]: f for f in json.loads(await cli(it, "doctor", "--json", code=None))["findings"]}
    assert findings["webhook chat"]["grade"] == "ok"
    assert findings["webhook away"]["grade"] == "note"
    assert "given up" in findings["webhook away"]["told"]
    assert "webhook deliveries --dead away" in findings["webhook away"]["fix"]
    assert json.loads(await cli(it, "webhook", "retry", "--all", "--json"))["retried"] >= 1
    assert "webhook" not in json.loads(await cli(it, "webhook", "list", "--json"))["not_in_settings"]
