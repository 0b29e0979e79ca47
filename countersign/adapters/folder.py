"""Where everything of a service on this machine lies, known before its settings are, which lie there too."""

from collections.abc import Mapping
from pathlib import Path


def data_folder(environ: Mapping[str, str]) -> Path:
    """`$COUNTERSIGN_DATA`, else the user's data folder."""
    if named := environ.get("COUNTERSIGN_DATA"):
        return Path(named).expanduser().absolute()
    base = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "countersign"
