"""What is put aside goes when nobody waits, and never later than it was said."""

import asyncio
import time
from pathlib import Path

import pytest

from countersign.adapters.leaving import Leaving
from tests.integration.processes import python, until

pytestmark = pytest.mark.anyio

NEVER = 3600.0  # seconds


def full(folder: Path) -> Path:
    (folder / "tree" / ".terraform").mkdir(parents=True)
    (folder / "plan.tfplan").write_text("in clear")
    (folder / "tree" / "elsewhere").symlink_to(folder.parent, target_is_directory=True)
    return folder


async def test_what_is_left_goes_at_once_where_nothing_is_at_work(tmp_path: Path) -> None:
    (tmp_path / "another").touch()

    Leaving(longest=NEVER).leave(full(tmp_path / "one"), tmp_path / "was never there", full(tmp_path / "two"))

    await until(lambda: [p.name for p in tmp_path.iterdir()] == ["another"], "both to go, and nothing that a link led to")


async def test_what_is_left_while_a_step_is_at_work_goes_after_it(tmp_path: Path) -> None:
    it = Leaving(quiet=0.3, longest=NEVER)
    with it.at_work():
        it.leave(full(tmp_path / "one"))
        with it.at_work():
            pass
        await asyncio.sleep(0)
    ended = time.monotonic()
    assert (tmp_path / "one").exists()

    await until(lambda: not (tmp_path / "one").exists(), "it to go")

    assert time.monotonic() - ended >= 0.3, "the next step of the same run comes at once, and is not to wait for it"


async def test_what_is_left_waits_for_no_step_longer_than_is_allowed(tmp_path: Path) -> None:
    it = Leaving(quiet=NEVER, longest=0.2)
    with it.at_work():
        it.leave(full(tmp_path / "one"))
        await until(lambda: not (tmp_path / "one").exists(), "the first to go beside the step")
        it.leave(full(tmp_path / "two"))
        await until(lambda: not (tmp_path / "two").exists(), "the second as well")


async def test_where_much_is_left_the_oldest_go_at_once(tmp_path: Path) -> None:
    it = Leaving(quiet=NEVER, longest=NEVER, most=2)
    with it.at_work():
        it.leave(*(full(tmp_path / name) for name in "abcd"))
        await until(lambda: sorted(p.name for p in tmp_path.iterdir()) == ["c", "d"], "two to go")

        await it.gone()

    assert not list(tmp_path.iterdir())


async def test_what_another_loop_left_waiting_is_not_forgotten(tmp_path: Path) -> None:
    it = Leaving(quiet=0.01, longest=NEVER)

    async def leave_before_the_loop_ends() -> None:
        with it.at_work():
            it.leave(full(tmp_path / "one"))

    await asyncio.to_thread(asyncio.run, leave_before_the_loop_ends())
    it.leave(full(tmp_path / "two"))

    await until(lambda: not list(tmp_path.iterdir()), "both to go")


async def test_a_process_that_ends_leaves_nothing(tmp_path: Path) -> None:
    full(tmp_path / "one")
    script = """
import asyncio, sys
from pathlib import Path
from countersign.adapters.leaving import leaving

async def main():
    with leaving.at_work():
        leaving.leave(Path(sys.argv[1]))

asyncio.run(main())
"""
    ended = await python(script, tmp_path / "one")

    assert await ended.wait() == 0
    assert not (tmp_path / "one").exists()
