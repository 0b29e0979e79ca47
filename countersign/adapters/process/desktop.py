"""Showing a file to whoever sits at this machine, in the browser they chose."""

import webbrowser
from pathlib import Path


def shown_in_browser(file: Path) -> bool:
    """Whether some browser took it; the library starts it in the background and asks `$BROWSER` first."""
    try:
        return webbrowser.open(file.as_uri())
    except (webbrowser.Error, OSError):
        return False
