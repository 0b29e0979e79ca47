"""`countersign up`, whose parts have gates: `python -m tests.chaos.up up`."""

from countersign.cli import nursery, supervisor
from countersign.cli.main import main as countersign

if __name__ == "__main__":
    nursery.MODULE = "tests.chaos.part"
    # Each kill is a story of its own: the patience a supervisor has with a part that dies again and again is none of them.
    supervisor.LONGEST_DELAY = supervisor.FIRST_DELAY
    countersign()
