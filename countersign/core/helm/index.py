"""An index.yaml, read as far as somebody asks: those of large repositories have megabytes, and a reader of YAML takes a second for each.

What Helm writes is regular: below `entries:` each chart begins a line with its name, and so does each of its versions with a dash. That is
cut apart as text, and only what is asked for is read. What is written otherwise is read whole.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from countersign.core.helm.charts import Entry, Source, entries_of
from countersign.core.helm.manifests import load

MOST = (32 << 20, 5_000_000)  # characters and values of all of it


class Index(Mapping[str, tuple[Entry, ...]]):
    """Chart → its versions, newest first. Raises ProviderError for what is no index, at once or when a chart of it is looked at."""

    def __init__(self, text: str, source: Source) -> None:
        self._source = source
        self._what = f"the index of {source.shown}"
        self._texts = dict(_blocks(text))
        self._read: dict[str, tuple[Entry, ...]] = {}
        if not self._texts:
            self._read = entries_of(load(text, what=self._what, most=MOST), source)

    def __getitem__(self, name: str) -> tuple[Entry, ...]:
        if name not in self._read:
            self._read[name] = self._entries(name, self._texts[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts or self._read)

    def __len__(self) -> int:
        return len(self._texts or self._read)

    def newest(self) -> Iterator[Entry]:
        """One version of each chart: what its block begins with, which is the newest where Helm wrote it."""
        for name, text in self._texts.items():
            first = self._read.get(name) or self._entries(name, _first(text))
            yield from first[:1]
        if not self._texts:
            yield from (entries[0] for entries in self._read.values())

    def _entries(self, name: str, text: str) -> tuple[Entry, ...]:
        read: Any = load(text, what=self._what, most=MOST)
        return entries_of({"entries": read}, self._source).get(name, ())


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """(chart, the text from its name to the next chart); nothing where that cannot be told for sure."""
    begins = re.search(r"^entries:[ \t]*\n", text, flags=re.MULTILINE)
    if begins is None or re.search(r"[&*]\w+\s*$", text, flags=re.MULTILINE):  # what stands for something elsewhere
        return
    below = text[begins.end() :]
    ends = re.search(r"^[^\s#-]", below, flags=re.MULTILINE)
    below = below[: ends.start()] if ends else below
    heads = list(re.finditer(r"^  ([A-Za-z0-9][A-Za-z0-9._-]*):[ \t]*\n", below, flags=re.MULTILINE))
    if not heads or below[: heads[0].start()].strip():
        return
    for place, head in enumerate(heads):
        following = heads[place + 1].start() if place + 1 < len(heads) else len(below)
        yield head[1], below[head.start() : following]


def _first(text: str) -> str:
    """A chart's block up to its second version."""
    dashes = [found.start() for found in re.finditer(r"^(?:  |    )- ", text, flags=re.MULTILINE)]
    shallow = [at for at in dashes if text[at : at + 4] == text[dashes[0] : dashes[0] + 4]] if dashes else []
    return text[: shallow[1]] if len(shallow) > 1 else text
