"""`countersign up`, whose parts have gates: `python -m tests.chaos.up up`."""

from collections.abc import Sequence
from dataclasses import replace

from countersign.adapters.settings import Settings
from countersign.cli import service, supervisor
from countersign.cli.main import main as countersign
from countersign.cli.parts import parts_of
from countersign.cli.supervisor import Part

OURS, GATED = "countersign.cli.part", "tests.chaos.part"


def gated(settings: Settings) -> list[Part]:
    return [replace(part, argv=_argv(part.argv)) for part in parts_of(settings)]


def _argv(argv: Sequence[str]) -> tuple[str, ...]:
    return tuple(GATED if word == OURS else word for word in argv)


if __name__ == "__main__":
    service.parts_of = gated
    # Each kill is a story of its own: the patience a supervisor has with a part that dies again and again is none of them.
    supervisor.LONGEST_DELAY = supervisor.FIRST_DELAY
    countersign()
