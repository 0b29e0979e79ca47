"""No committed file may say where this machine, or its owner's packages, are: `python tools/check_texts.py [FILE…]`.

Locks name pins and hashes only, so that whoever installs uses their own index. Documents name a web address only of the
kinds below. Nobody's home folder, and no path of this checkout, stands anywhere but in tests, where they are made up.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = re.compile(r"(^|/)requirements/|(^|/)(requirements|constraints)[^/]*\.(txt|in)$|package-lock\.json$|\.lock$|pip\.conf$")
DOCUMENTS = re.compile(r"\.md$|(^|/)(Makefile|pyproject\.toml)$|^\.ci/|^tools/")
MADE_UP = re.compile(r"^tests/")

INDEX = re.compile(r"://|--(?:extra-)?index-url|--find-links|^-[if]\s")
# Written so that this file names none of them.
REGISTRY = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|crates|rubygems)\.(?:org|com|io)\b|\bproxy\.golang\b|\brepo\d*\.maven\b|\bdeb\.debian\b", re.IGNORECASE
)
ADDRESS = re.compile(r"\b(?:https?|ftp|git|ssh)://([^\s/:)\"'`>\]]+)")
# This machine, names reserved for examples, and the licence's own text.
NAMED = re.compile(r"^(?:127\.0\.0\.1|localhost|\[::1\]|(?:.*\.)?example(?:\.(?:com|org|net))?|www\.apache\.org|<[a-z-]+|\$.*|\{.*|)$")
HOME = re.compile(r"(?<![\w.$~}-])/(?:root|home/[a-z][\w-]*|Users/\w+)(?=[/\s\"'`)]|$)")


def problems(name: str, text: str, *, root: str) -> Iterator[tuple[int, str]]:
    """Line number and what is wrong there, for the file `name` of a checkout in the folder `root`."""
    for number, line in enumerate(text.splitlines(), 1):
        if LOCKS.search(name) and INDEX.search(line):
            yield number, "a lock names no index and no address"
        if REGISTRY.search(line):
            yield number, "names the host of a package registry"
        if DOCUMENTS.search(name):
            for host in ADDRESS.findall(line):
                if not NAMED.match(host):
                    yield number, f"names the address {host}; describe it, or add its kind to NAMED in tools/check_texts.py"
        if not MADE_UP.search(name) and (HOME.search(line) or (len(root) > 1 and f"{root}/" in line)):
            yield number, "names a folder of somebody's machine"


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    return [name for name in listed.stdout.decode().split("\0") if name]


def main() -> None:
    found = 0
    for name in sys.argv[1:] or tracked():
        file = ROOT / name
        try:
            text = file.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):  # no text, or deleted and not yet committed
            continue
        for number, what in problems(name, text, root=str(ROOT)):
            found += 1
            print(f"{name}:{number}: {what}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
