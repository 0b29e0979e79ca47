"""Where provider packages come from, and what to do where one does not come."""

import re

_PROVIDER = re.compile(r"provider ([\w.-]+/[\w-]+/[\w-]+)(?: (\d[\w.+-]*))?|installing ([\w.-]+/[\w-]+/[\w-]+) v?(\d[\w.+-]*)")
REGISTRIES = "the registries that the configuration names"


def advice(said: str, *, engine: str, origin: str) -> str | None:
    """What to do about a failed installation, for whoever reads the engine's words; None where they are about something else.

    `origin` is where packages come from. Lines are broken by the engine as it likes.
    """
    text = " ".join(said.split())
    found = _PROVIDER.search(text)
    name = " ".join(part for part in (found[1] or found[3], found[2] or found[4]) if part) if found else "the provider"
    if "does not match configured version constraint" in text:
        return f"the lock file pins {name}, and the configuration asks for another version: {_relock(engine, upgrade=True)}"
    if "match any of the checksums" in text or ("checksum" in text and "lock file" in text):
        return (
            f"the package of {name} from {origin} is not the one that the lock file pins: if it is right, record it for this platform "
            f"with `{engine} providers lock` and commit .terraform.lock.hcl; if not, tell the operator"
        )
    lacking = "not found in any of the search locations" in text or "no available releases match" in text
    if lacking or "does not have a package available" in text or ("not available" in text and "mirror" in text):
        if origin == REGISTRIES:
            return f"{origin} have no such package of {name}; correct its source or version"
        return f"{origin} has no such package of {name}: use a version it has, or ask the operator to add it (`{engine} providers mirror`)"
    if "dependency changes detected" in text.lower() or "dependency lock file" in text or "lockfile" in text:
        return _relock(engine)
    return None


def _relock(engine: str, *, upgrade: bool = False) -> str:
    return f"run `{engine} init{' -upgrade' if upgrade else ''}` in the folder and commit .terraform.lock.hcl"
