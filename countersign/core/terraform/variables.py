"""Values for a stack's variables: the request's over the stack's, and nothing the configuration does not declare.

`{"secret": slug}` names a sealed secret wherever it stands in a value.
"""

from collections.abc import Callable, Collection, Iterator, Mapping

from countersign.core.errors import InvalidArgument


def merged(stack: Mapping[str, object], request: Mapping[str, object], *, declared: Collection[str]) -> dict[str, object]:
    """Raises InvalidArgument that names the undeclared one and what is declared."""
    values = {**stack, **request}
    for name in values:
        if name not in declared:
            known = ", ".join(sorted(declared)) or "none at all"
            whose = "the request" if name in request else "the stack"
            raise InvalidArgument(
                f"{whose} sets the variable {name[:100]!r}, which the configuration does not declare; declared are: {known}",
                field=f"vars.{name[:100]}",
            )
    return values


def secret_named(value: object) -> str | None:
    """The slug in {"secret": slug}, or None for a plain value."""
    if isinstance(value, Mapping) and set(value) == {"secret"} and isinstance(value["secret"], str):
        return value["secret"]
    return None


def secrets_named(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """(variable, slug) of every sealed secret that is named, however deep in the value."""
    for name, value in sorted(values.items()):
        for slug in dict.fromkeys(_slugs(value)):
            yield name, slug


def with_secrets(value: object, found: Callable[[str], object]) -> object:
    """The value with `found(slug)` in the place of each sealed secret that is named."""
    if (slug := secret_named(value)) is not None:
        return found(slug)
    if isinstance(value, Mapping):
        return {key: with_secrets(item, found) for key, item in value.items()}
    if isinstance(value, list):
        return [with_secrets(item, found) for item in value]
    return value


def _slugs(value: object) -> Iterator[str]:
    if (slug := secret_named(value)) is not None:
        yield slug
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _slugs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _slugs(item)
