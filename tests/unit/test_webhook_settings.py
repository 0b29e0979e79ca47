"""Who is told, as the operator writes it."""

from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.settings import Settings, WebhookSettings, load
from countersign.core.errors import InvalidArgument
from countersign.core.notice import Moment

HOOK = {"name": "chat", "url": "https://chat.example.com/hooks/T0KEN?x=1", "secret": "chat"}


def test_by_default_a_webhook_hears_of_everything() -> None:
    hook = WebhookSettings(**HOOK)  # type: ignore[arg-type]

    assert all(hook.wants(moment, "acme/prod") for moment in Moment)
    assert not hook.model_copy(update={"environments": ("acme/dev",)}).wants(Moment.ENDED, "acme/prod")
    assert not hook.model_copy(update={"events": (Moment.WAITING,)}).wants(Moment.ENDED, "acme/prod")


def test_an_address_is_shown_without_what_may_be_secret_in_it() -> None:
    hook = WebhookSettings(**HOOK)  # type: ignore[arg-type]

    assert hook.shown == "https://chat.example.com/…"
    assert "T0KEN" not in repr(Settings(data=Path("/nowhere"), webhooks=(hook,)))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"url": "ftp://chat.example.com"}, "an address that begins with https"),
        ({"url": "https://"}, "an address that begins with https"),
        ({"url": "https://ana:pass@chat.example.com"}, "no user or password in the address"),
        ({"name": "Chat Room"}, "lower case letters"),
        ({"secret": "../chat"}, "lower case letters"),
        ({"events": ["approved"]}, "waiting"),
        ({"attempts": 0}, "greater than or equal to 1"),
        ({"urls": "https://chat.example.com"}, "Extra inputs"),
    ],
)
def test_what_is_wrong_stops_the_start_and_is_named_without_its_value(tmp_path: Path, wrong: dict[str, Any], why: str) -> None:
    lines = "".join(f"{name} = {value!r}\n" for name, value in {**HOOK, **wrong}.items())
    (tmp_path / "countersign.toml").write_text(f"[[webhooks]]\n{lines}")

    with pytest.raises(InvalidArgument, match=why) as refused:
        load(tmp_path)

    assert refused.value.field is not None
    assert refused.value.field.startswith("webhooks.0.")
    assert "pass@" not in refused.value.message


def test_two_webhooks_of_one_name_are_refused(tmp_path: Path) -> None:
    one = "[[webhooks]]\n" + "".join(f'{name} = "{value}"\n' for name, value in HOOK.items())
    (tmp_path / "countersign.toml").write_text(one + one)

    with pytest.raises(InvalidArgument, match="two webhooks have the same name"):
        load(tmp_path)
