"""`python -m countersign.cli.part NAME [OPTION …]`: a part of the service as `up` starts it.

The same as `countersign NAME`, without loading what draws help texts and tables: three parts start at once on a cold machine. And
`python -m countersign.cli.part fork KIND`: what they are forked from.
"""

# ruff: noqa: E402  collecting garbage while modules load finds nothing and takes an eighth of the time; `run` allows it again

import gc

gc.disable()

import sys
from importlib import import_module

from countersign.adapters.process import serve_zygote
from countersign.cli import serving
from countersign.cli.session import run, settings_of

OPTIONS = {
    "worker": {"--prepare-temporal": "prepare_temporal"},
    "front": {"--stdio": "stdio"},
    "state": {"--local-key": "local_key"},
}
FORK = "fork"
# What they all need, and what the front and the worker need beside it. Nothing here may open, connect or start anything.
LOADED = {
    "store": ("countersign.cli.schema", "countersign.cli.store", "countersign.state_api.main"),
    "temporal": ("countersign.adapters.temporal",),
}


def main(words: list[str]) -> None:
    name, *options = asked(words)
    given = {OPTIONS[name][option]: True for option in options}
    run(getattr(serving, name)(settings_of(None), **given))


def asked(words: list[str]) -> list[str]:
    """The words of a part: these, or, in each process that is forked from us, those it was asked for with.

    `fork KIND`: load what parts of that kind have in common, and be forked.
    """
    while words[0] == FORK:
        for module in LOADED[words[1]]:
            import_module(module)
        argv = serve_zygote()
        words = argv[argv.index("-m") + 2 :]
    return words


if __name__ == "__main__":
    main(sys.argv[1:])
