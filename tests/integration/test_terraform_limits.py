"""Plans that are huge and disks that are full: worked with or refused, never half of either."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from countersign.adapters.process import supervise
from countersign.adapters.terraform import session, witness
from countersign.adapters.terraform.judging import SUMMARY_MAX
from countersign.core.errors import ProviderError, Unavailable
from countersign.core.plan import SHOWN
from countersign.core.run import RunState
from tests.integration.processes import ENV, leaves_no_process, until
from tests.integration.terraform_bench import Bench, bench
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio

MANY = """resource "terraform_data" "a" {
  count = 1000
  input = { name = "a-${count.index}", tags = { a = "b", c = "d" } }
}
output "ids" {
  value = terraform_data.a[*].id
}
"""
LARGE = """locals {
  kilobyte = join("", [for i in range(64) : "0123456789abcde\\n"])
  large    = join("", [for i in range(100) : local.kilobyte])
}
resource "terraform_data" "large" {
  count = 100
  input = "${count.index} ${local.large}"
}
"""


@requirement("bad:huge-plan")
@pytest.mark.parametrize(("room", "kept"), [(29, 2), (30, 3), (39, 3), (0, 0)])
async def test_of_a_journal_too_long_to_be_kept_whole_lines_are_kept_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, kept: int
) -> None:
    monkeypatch.setattr(witness, "JOURNAL_MAX", room)
    journal = tmp_path / "journal"
    heard = witness.Witness(tmp_path, journal)

    for piece in (b'{"n":"1"}\n{"n":"2"}\n', b'{"n":"3"}\n{"n":"4"}\n', b'{"n":"5"}\n'):
        with journal.open("ab") as file:
            file.write(piece)
        heard.listen()
    heard.close()

    *lines, last = heard.told().splitlines()
    assert [json.loads(line)["n"] for line in lines] == ["1", "2", "3"][:kept]
    assert json.loads(last)["@message"] == "the rest of the journal was too long to keep"


@requirement("bad:huge-plan")
async def test_a_thousand_resources_are_planned_summarised_and_applied(bench: Bench) -> None:
    bench.write("many", main_tf=MANY)

    planned = await bench.plan("many")
    outcome = await bench.apply(planned, "many")

    assert planned.plan.counts.create == 1000
    assert len(planned.plan.changes) == SHOWN
    assert len(planned.plan.model_dump_json()) <= SUMMARY_MAX
    view = json.loads(planned.view)
    assert (view["total"], view["classes"]) == (1000, {"create": 1000})
    assert outcome.state is RunState.VERIFYING
    assert (outcome.done, outcome.total, len(outcome.resources)) == (1000, 1000, 1000)
    assert len(bench.state.document["resources"][0]["instances"]) == 1000
    assert bench.state.requests.count("POST") == 1


@requirement("bad:huge-plan")
async def test_a_plan_of_twenty_megabytes_is_summarised_within_its_bounds(bench: Bench) -> None:
    bench.write("large", main_tf=LARGE)

    planned = await bench.plan("large")

    assert len(planned.plan_json) > 20 << 20
    assert planned.plan.counts.create == 100
    assert len(planned.plan.model_dump_json()) <= SUMMARY_MAX
    assert len(planned.view) < 2 << 20
    assert len(planned.log) < 1 << 20
    assert len(planned.semantic_document) < 1 << 20
    # Somebody waits for news while megabytes are read: nobody is left without a heartbeat.
    assert [beat.current for beat in bench.beats].count("reading the plan") >= 2
    assert (await bench.apply(planned, "large")).state is RunState.VERIFYING


async def test_a_plan_too_big_for_anybody_to_read_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SAID_MAX", 1 << 20)
    bench.write("large", main_tf=LARGE)

    with pytest.raises(ProviderError, match="split the stack into smaller ones"):
        await bench.plan("large")


async def test_names_of_any_length_stay_within_the_bounds_of_a_summary(bench: Bench) -> None:
    name = "n" * 200
    bench.write(
        "long",
        main_tf=f"""resource "terraform_data" "{name}" {{
  for_each = toset([for i in range(60) : "{"k" * 150}${{i}}"])
  input    = {{ for i in range(30) : "{"a" * 100}${{i}}" => i }}
}}
"""
        + "".join(f'output "{name}{i}" {{\n  value = {i}\n}}\n' for i in range(110)),
    )

    planned = await bench.plan("long")

    assert planned.plan.counts.create == 60
    assert len(planned.plan.model_dump_json()) <= SUMMARY_MAX
    assert planned.plan.changes and planned.plan.outputs_changed


# -- A disk without room


@pytest.fixture
async def small_disk(tmp_path: Path) -> AsyncIterator[Path]:
    """A folder on a file system of 80 MiB. Mounting one takes root: run these tests as such, in a container for instance."""

    async def ignored(_: list[bytes]) -> None:
        pass

    async def run(*argv: str) -> int:
        ended = await supervise(argv, cwd=tmp_path, env=ENV, folder=tmp_path, on_lines=ignored)
        assert ended.code == 0, ended.errors
        return ended.code

    folder = tmp_path / "small"
    folder.mkdir()
    await run("/usr/bin/mount", "-t", "tmpfs", "-o", "size=80m,mode=700", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        await run("/usr/bin/umount", "-l", str(folder))


def filled(folder: Path, *, but: int) -> Path:
    """Take all room of the folder's disk `but` some bytes; remove the file to give it back."""
    size = max(0, shutil.disk_usage(folder).free - but)
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return ballast


@requirement("bad:disk-full")
@pytest.mark.parametrize("room", [0, 16 << 10, 32 << 10])
async def test_a_full_disk_fails_the_plan_in_words_and_the_next_one_works(bench: Bench, small_disk: Path, room: int) -> None:
    bench.engine = bench.another(work="small/work")
    await bench.plan()
    await until(lambda: not list(small_disk.rglob(".gone/*")), "what the plan left to be removed")
    ballast = filled(small_disk, but=room)

    for _ in range(2):
        with pytest.raises((Unavailable, ProviderError)) as full:
            await bench.plan()
        assert "no space left" in full.value.message.lower() or "are free where it works" in full.value.message
    ballast.unlink()

    assert (await bench.plan()).plan.counts.create == 13
    assert bench.state.lock is None


@requirement("bad:disk-full")
async def test_an_apply_is_not_begun_where_its_journal_would_have_no_room(bench: Bench, small_disk: Path) -> None:
    planned = await bench.plan()
    bench.engine = bench.another(attempts="small/attempts")
    filled(small_disk, but=10 << 20)
    job = bench.apply_job(planned)

    with pytest.raises(Unavailable, match="MiB are free in the folder of attempts, 64 are needed; nothing was started"):
        await bench.engine.launch(job)
    outcome = await bench.follow(job.attempt_id)

    assert (outcome.state, outcome.code) == (RunState.ERRORED, "unavailable")
    assert "64 are needed" in outcome.message
    assert bench.state.resources == []


@requirement("bad:disk-full", "I4")
async def test_a_disk_that_fills_up_in_mid_apply_never_makes_it_look_done_or_never_begun(bench: Bench, small_disk: Path) -> None:
    bench.engine = bench.another(attempts="small/attempts")
    planned = await bench.plan("gates", vars={"world": str(bench.world)})
    attempt = await bench.launch(planned, "gates")
    following = asyncio.create_task(bench.follow(attempt))
    await until((bench.world / "1.reached").exists, "the apply to reach its gate")
    ballast = filled(small_disk, but=0)
    (bench.world / "1.open").touch()
    with contextlib.suppress(Unavailable):
        outcome = await following
        assert outcome.state is RunState.INTERRUPTED
    ballast.unlink()

    outcome = await bench.follow(attempt)

    assert outcome.state is RunState.INTERRUPTED
    assert {str(r["address"]): r["ok"] for r in outcome.resources}["terraform_data.before"] is True
