"""What the documents tell people to type exists, and so does what they point to."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from countersign.adapters.settings import GitSettings, HelmSettings, LimitSettings, RetentionSettings, Settings, TerraformSettings
from countersign.cli.main import app
from countersign.core.policy import Policy

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()
NOT_TOLD = {"data", "search_path"}  # the folder has a section of its own, and PATH is nobody's setting


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def typed() -> list[list[str]]:
    lines = [line for document in DOCUMENTS for block in blocks(document.read_text(), "sh") for line in block.splitlines()]
    return [words[1:] for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "countersign"]


@pytest.mark.parametrize("words", typed(), ids=" ".join)
def test_a_command_in_the_documents_parses(words: list[str]) -> None:
    context = typer.Context(typer.main.get_command(app), info_name="countersign")
    command = context.command
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"countersign has no {words[:1]}; there are {', '.join(command.commands)}"
        command, words = command.commands[words[0]], words[1:]

    command.make_context(command.name, list(words), parent=context)  # raises where an option or argument is unknown


def test_the_readme_tells_every_setting_and_no_other() -> None:
    table = README.split("## Settings")[1].split("## ")[0]
    told = {name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`([a-z_.]+)`", row.split("|")[1])}
    sections = {
        "terraform": TerraformSettings,
        "git": GitSettings,
        "helm": HelmSettings,
        "policy": Policy,
        "limits": LimitSettings,
        "retention": RetentionSettings,
    }
    there = {name for name in Settings.model_fields if name not in sections} - NOT_TOLD
    there |= {f"{section}.{name}" for section, model in sections.items() for name in model.model_fields}

    assert told == there


def test_settings_in_the_readme_are_valid(tmp_path: Path) -> None:
    examples = [tomllib.loads(block) for block in blocks(README, "toml")]

    assert examples
    for example in examples:
        Settings(data=tmp_path, **example)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        led = (document.parent / path).resolve() if path else document
        assert led.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", led.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_targets_of_make_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)[^`]*`|^make ([a-z-]+)", document.read_text(), re.MULTILINE):
            name = "".join(target)
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"{document.name} names make {name}"
