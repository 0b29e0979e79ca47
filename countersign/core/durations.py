"""How long, as people write it: `90s`, `2h`, `7d`."""

import re
from datetime import timedelta

from countersign.core.errors import InvalidArgument

_WRITTEN = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str, *, field: str | None = None) -> timedelta:
    """Raises InvalidArgument."""
    read = _WRITTEN.fullmatch(text)
    if read is None:
        raise InvalidArgument("a duration reads 90s, 2h or 7d", field=field)
    return timedelta(**{_UNITS[read[2]]: int(read[1])})
