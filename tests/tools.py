"""Where the engines and servers are that `make tools` builds. A missing one fails the test that needs it."""

import os
from pathlib import Path


def built(module: str, program: str) -> Path:
    """The executable that the pins in tools/`module` make."""
    share = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "countersign"
    made = Path(os.environ.get("CHECKOUT_CACHE") or share) / "tools" / module / program
    assert made.exists(), f"{program} is not built: run `make tools-{module}`"
    return made
