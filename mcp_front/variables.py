"""Values for variables, as far as the door can judge them: names, sizes, and that secrets come by reference only."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from countersign.adapters.store import secrets
from countersign.core.errors import InvalidArgument
from countersign.core.ids import SLUG
from countersign.core.terraform.variables import secret_named, secrets_named
from mcp_front.call import Call

NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]{0,99}\Z")
LARGEST = 64 << 10  # bytes of all values together
VALUES_LARGEST = 256 << 10  # of a chart's values
MOST = 200


def checked_vars(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values, if they may be kept. Raises InvalidArgument naming the variable and never a value.

    Whether a plain value is a secret nobody can tell; whoever marks one with `secret` has to mean a sealed one.
    """
    if len(given) > MOST or len(json.dumps(given)) > LARGEST:
        raise InvalidArgument(f"vars has more than {MOST} values or {LARGEST >> 10} KiB; keep such data in the configuration", field="vars")
    for name, value in given.items():
        field = f"vars.{name[:100]}"
        if not NAME.match(name):
            raise InvalidArgument(f"{name[:100]!r} is no name of a variable: letters, digits, _ and -", field=field)
        for part in _objects(value):
            slug = secret_named(part)
            if slug is not None and not SLUG.match(slug):
                raise InvalidArgument(
                    f"{field} names no sealed secret: write {{secret: slug}} with the slug of one (`countersign secret set`)", field=field
                )
            if slug is None and _like_a_secret(part):
                raise InvalidArgument(
                    f"{field} holds something like a secret: one is written {{secret: slug}}, with nothing beside it, and names a sealed "
                    "one, so that its value is never written here (`countersign secret set`)",
                    field=field,
                )
    return dict(given)


def checked_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """A chart's values, if they may be kept. Charts name their keys as they like, `secret` too; only `{secret: …}` alone names one."""
    if (size := len(json.dumps(given))) > VALUES_LARGEST:
        raise InvalidArgument(
            f"values have {size >> 10} KiB, more than {VALUES_LARGEST >> 10}; keep such data in the chart, or in objects of its own",
            field="values",
        )
    for part in _objects(given):
        slug = part["secret"] if set(part) == {"secret"} else None
        if slug is not None and not (isinstance(slug, str) and SLUG.match(slug)):
            raise InvalidArgument(
                "values name no sealed secret where they say {secret: …}: write the slug of one (`countersign secret set`)", field="values"
            )
    return dict(given)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for item in value.values():
            yield from _objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _like_a_secret(value: Mapping[str, Any]) -> bool:
    """`{secret: …}` with something else in it or beside it."""
    return set(value) == {"secret"} or isinstance(value.get("secret"), str)


async def unset_secrets(call: Call, vars: Mapping[str, Any] | None, *credentials: str | None) -> list[str]:
    """A warning for each sealed secret that is named and not set yet: a plan would stop at it."""
    slugs = {slug for _, slug in secrets_named(vars or {})} | {slug for slug in credentials if slug}
    if not slugs:
        return []
    async with call.front.store.read() as conn:
        unset = [slug for slug in sorted(slugs) if not await secrets.version(conn, call.org, slug)]
    return [f"the secret {slug} is not set yet; set it with `countersign secret set {slug}` before the next plan" for slug in unset]
