"""Values for a stack's variables: the request's over the stack's, and nothing the configuration does not declare."""

from collections.abc import Collection, Iterator, Mapping

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
    """(variable, slug) of every variable that names a sealed secret."""
    for name, value in sorted(values.items()):
        slug = secret_named(value)
        if slug is not None:
            yield name, slug
