"""Local logs that name their facts: `what happened run=run_… attempt=2`, one line each.

They go through the standard library, and so through the same redaction as everything else that is logged (`cli/serving.py`). A library for
this brought terminal colours and tables along: 5 MiB and 50 ms of the cold start of each part that logs.
"""

import json
import logging
import re

_PLAIN = re.compile(r"[^\s\"=]+")  # needs no quotes


class Log:
    """Says what happened, and facts about it by name. Values may come from outside: none of them ends a line."""

    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(name)

    def info(self, what: str, **facts: object) -> None:
        self._say(logging.INFO, what, facts)

    def warning(self, what: str, **facts: object) -> None:
        self._say(logging.WARNING, what, facts)

    def error(self, what: str, **facts: object) -> None:
        self._say(logging.ERROR, what, facts)

    def exception(self, what: str, **facts: object) -> None:
        """The same about the exception that is being handled, with where it came from."""
        self._say(logging.ERROR, what, facts, traced=True)

    def _say(self, level: int, what: str, facts: dict[str, object], *, traced: bool = False) -> None:
        if self._log.isEnabledFor(level):
            self._log.log(level, "%s", line(what, facts), exc_info=traced)


def line(what: str, facts: dict[str, object]) -> str:
    return " ".join((what, *(f"{name}={_shown(value)}" for name, value in facts.items())))


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
