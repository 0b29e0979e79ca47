"""A part of the service as the kill matrix starts it: the product's own, with gates, and maybe with one mechanism switched off.

`python -m tests.chaos.part NAME [OPTION …]`, as `countersign.cli.part`.
"""

import os
import sys

from countersign.cli import part
from tests.chaos import mutations, seams

GATES = "COUNTERSIGN_CHAOS_GATES"  # address of the fake cloud
MUTATE = "COUNTERSIGN_CHAOS_MUTATE"  # name of a mutation


def main(words: list[str]) -> None:
    words = part.asked(words)
    if mutation := os.environ.get(MUTATE):
        mutations.install(mutation, words[0])
    seams.install(words[0], os.environ[GATES])
    part.main(words)


if __name__ == "__main__":
    main(sys.argv[1:])
