"""`python -m countersign.cli.part NAME [OPTION …]`: a part of the service as `up` starts it.

The same as `countersign NAME`, without loading what draws help texts and tables: three parts start at once on a cold machine.
"""

# ruff: noqa: E402  collecting garbage while modules load finds nothing and takes an eighth of the time; `run` allows it again

import gc

gc.disable()

import sys

from countersign.cli import serving
from countersign.cli.session import run, settings_of

OPTIONS = {
    "worker": {"--prepare-temporal": "prepare_temporal"},
    "front": {"--stdio": "stdio"},
    "state": {"--local-key": "local_key"},
}


def main(words: list[str]) -> None:
    name, *options = words
    given = {OPTIONS[name][option]: True for option in options}
    run(getattr(serving, name)(settings_of(None), **given))


if __name__ == "__main__":
    main(sys.argv[1:])
