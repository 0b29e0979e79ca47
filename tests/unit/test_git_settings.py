"""Where stacks may come from, as the operator writes it."""

from pathlib import Path

import pytest

from countersign.adapters.settings import GitSettings, load
from countersign.core.errors import InvalidArgument
from countersign.core.repository import key_of
from tests.requirements import requirement


@requirement("git:allow-list")
def test_by_default_no_repository_is_allowed() -> None:
    assert GitSettings().rules.allowed == ()


def test_the_first_credential_in_the_file_counts(tmp_path: Path) -> None:
    (tmp_path / "countersign.toml").write_text(
        '[git]\nrepositories = ["https://git.example.com/*"]\nlocal = "~/repositories"\n'
        '[git.credentials]\n"https://git.example.com/b/*" = "b-token"\n"https://git.example.com/*" = "token"\n'
    )

    git = load(tmp_path).git

    assert git.rules.allowed == ("https://git.example.com/*",)
    assert key_of("https://git.example.com/b/x", git.rules) == ("https://git.example.com/b/*", "b-token")
    assert git.local is not None and git.local.is_absolute()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('repositories = ["*"]', "write globs like"),
        ('repositories = ["https://*/acme"]', "name the host"),
        ('repositories = ["file:///srv/git/*"]', "write globs like"),
        ('credentials = {"https://git.example.com/*" = "Not A Slug"}', "the slug of a sealed secret"),
        ('credentials = {"local:*" = "token"}', "the slug of a sealed secret"),
        ('credentials = {"https://git.example.com/$(id)" = "token"}', "write globs like"),
        ("timeout_seconds = 0", "greater than 0"),
        ('repository = "x"', "Extra inputs"),
    ],
)
def test_what_is_written_wrongly_is_named(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "countersign.toml").write_text(f"[git]\n{line}\n")

    with pytest.raises(InvalidArgument, match=why) as refused:
        load(tmp_path)

    assert (refused.value.field or "").startswith("git.")
