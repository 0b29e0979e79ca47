"""What is secret in a release, and how it is shown: as keyed fingerprints, so that a reader sees that it changes and not to what.

Helm's own `--hide-secret` leaves values, defaults and templates as they are. Secret here is: whatever a Secret holds, values whose name or
schema says so, values that were given as `{secret: slug}`; and the same texts wherever else they turn up, in a container's environment
or in a ConfigMap.
"""

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from countersign.core.fingerprints import Fingerprints
from countersign.core.helm.manifests import Manifest
from countersign.core.redaction import SHORTEST, Redactor, looks_secret
from countersign.core.terraform.variables import secret_named

Path = tuple[str | int, ...]

# Below a name that looks secret these say where a secret lies, and hold none.
_REFERENCES = frozenset(
    {"name", "key", "keys", "kind", "secretname", "existingsecret", "existingsecretname", "optional", "defaultmode", "mode", "path",
     "mountpath", "namespace", "type", "labels", "annotations", "enabled", "create", "username", "user", "audience", "expirationseconds"}
)  # fmt: skip
_NAMES_ONLY = frozenset({"imagepullsecrets", "pullsecrets", "existingsecret", "secretname", "secretref", "secretkeyref", "tokenrequests"})
# `db.password=…` in a file that a ConfigMap holds, or in arguments.
_ASSIGNED = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,100})(?P<is>\s{0,3}[=:]\s{0,3})(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s\"',;&]+)")
_WORD = re.compile(r"[a-z]{1,15}(?:[-.][a-z]{1,15}){0,4}\Z")  # "postgres", "orders-db.shop": hiding it everywhere would hide the plan


def is_secret(manifest: Manifest) -> bool:
    return (manifest.key.group, manifest.key.kind) == ("", "Secret")


def secret_texts(
    manifests: Iterable[Manifest] = (), *, values: object = None, schema: object = None, paths: Collection[Path] = ()
) -> frozenset[str]:
    """Every text that is secret in these: Secrets in clear and encoded, values by name, schema and `paths`.

    What a Secret holds under a harmless key and is a plain word, a user name for one, is hidden in the Secret alone: elsewhere it is the
    name of an image, a host or a database.
    """
    found: set[str] = set()
    for manifest in manifests:
        if is_secret(manifest):
            for key, text, encoded in _contents(manifest.body):
                if looks_secret(key) or not _WORD.match(text):
                    found |= {text, encoded} if encoded else {text}
    for path, text in _secret_leaves(values, schema, paths):
        if not _WORD.match(text) or len(path) == 0 or _named_secret(path):
            found.add(text)
    return frozenset(text for text in found if len(text) >= SHORTEST)


def sealed_paths(values: object, at: Path = ()) -> Iterator[tuple[Path, str]]:
    """(path, slug) of each `{secret: slug}` in values that were asked for."""
    if (slug := secret_named(values)) is not None:
        yield at, slug
    else:
        for step, item in _children(values):
            yield from sealed_paths(item, (*at, step))


def written(path: Path) -> str:
    """`auth.users[0].password`, as people write it; a key with dots in it stands in quotes."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]+", step):
            out += f".{step}" if out else step
        else:
            out += f'["{step}"]'
    return out


class Veil:
    """Shows what belongs to one release. It knows its secrets, so it lives as long as its attempt and is stored nowhere."""

    def __init__(self, fingerprints: Fingerprints, secrets: Iterable[str] = (), *, scope: str = "") -> None:
        self._fingerprints = fingerprints
        self._secrets = frozenset(secrets)
        self._scope = scope  # the release: equal secrets of two of them look different
        self.redactor = Redactor(self._secrets)

    def fingerprint(self, value: object, *where: str) -> str:
        return f"(sensitive fp:{self._fingerprints.of(tree(value), 'helm', self._scope, *where)[:8]})"

    def text(self, text: str, *where: str) -> str:
        """One text that is not secret as a whole by its place: hidden where it is one that is known, redacted within."""
        if text in self._secrets:
            return self.fingerprint(text, *where)
        return self._assigned(self.redactor.lines(text), *where)

    def values(self, values: object, *, schema: object = None, paths: Collection[Path] = ()) -> Any:
        """Values of a chart, in their shape."""
        hidden = {path for path, _ in _secret_leaves(values, schema, paths, texts_only=False)}
        return self._shown(values, (), "values", hidden)

    def manifest(self, manifest: Manifest, body: Mapping[str, Any] | None = None) -> Any:
        """An object as it was rendered, or as it is live in `body`."""
        shown = manifest.body if body is None else body
        return self._shown(shown, (), manifest.key.address, set(hidden_in(shown)))

    def _shown(self, value: Any, at: Path, where: str, hidden: Collection[Path]) -> Any:
        if at in hidden and not isinstance(value, bool) and value is not None:
            return self.fingerprint(value, where, written(at))
        if isinstance(value, Mapping):
            return {self.redactor.line(str(key)): self._shown(item, (*at, str(key)), where, hidden) for key, item in value.items()}
        if isinstance(value, list):
            return [self._shown(item, (*at, index), where, hidden) for index, item in enumerate(value)]
        if isinstance(value, str):
            return self.text(value, where, written(at))
        return value

    def _assigned(self, text: str, *where: str) -> str:
        def hide(found: re.Match[str]) -> str:
            if not looks_secret(found["name"]) or found["value"].startswith(("(", "$", "{")):  # hidden already, or the name of a variable
                return found[0]
            return f"{found['name']}{found['is']}{self.fingerprint(found['value'].strip(chr(34) + chr(39)), *where, found['name'])}"

        return _ASSIGNED.sub(hide, text) if "=" in text or ":" in text else text


def hidden_in(body: Mapping[str, Any]) -> Iterator[Path]:
    """Where an object of Kubernetes holds what is secret by its place or its name."""
    if body.get("kind") == "Secret" and body.get("apiVersion") == "v1":
        for part in ("data", "stringData"):
            yield from ((part, str(key)) for key, _ in _children(body.get(part)))
        yield ("metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")
    elif body.get("kind") != "CustomResourceDefinition":  # its schema names what others hold
        yield from (path for path, _ in _by_name(body, (), below=False))


def tree(value: object) -> Any:
    """A value as JSON without floats, in which no two types share a spelling."""
    if isinstance(value, float):
        return ["f", repr(value)]
    if isinstance(value, Mapping):
        return ["m", [[str(key), tree(item)] for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))]]
    if isinstance(value, list | tuple):
        return ["l", [tree(item) for item in value]]
    return value


def _contents(body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, text, the same encoded) of everything a Secret holds; what is no text is not looked for elsewhere."""
    for key, value in _children(body.get("stringData")):
        yield str(key), str(value), base64.b64encode(str(value).encode(errors="surrogatepass")).decode()
    for key, value in _children(body.get("data")):
        if isinstance(value, str):
            text = _decoded(value)
            yield str(key), value if text is None else text, value


def _decoded(value: str) -> str | None:
    try:
        return base64.b64decode("".join(value.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _secret_leaves(values: object, schema: object, paths: Collection[Path], *, texts_only: bool = True) -> Iterator[tuple[Path, str]]:
    leaves = dict(_by_name(values, (), below=False))
    for path in (*paths, *by_schema(values, schema)):
        leaves |= dict(_leaves(_at(values, path), path))
    for path, value in leaves.items():
        if isinstance(value, str) or not texts_only:
            yield path, str(value)


def by_schema(values: object, schema: object) -> Iterator[Path]:
    """What a chart's schema calls secret: `format: password`, `writeOnly: true`."""
    return _by_schema(values, schema, schema, (), 0)


def _by_schema(value: object, schema: object, root: object, at: Path, followed: int) -> Iterator[Path]:
    """Bounded by the values, and by how many references lead to one another at one place."""
    if not isinstance(schema, Mapping) or followed > 16:
        return
    if schema.get("format") == "password" or schema.get("writeOnly") is True:
        yield at
        return
    if isinstance(reference := schema.get("$ref"), str):
        yield from _by_schema(value, _referred(root, reference), root, at, followed + 1)
    for word in ("allOf", "anyOf", "oneOf"):
        for part in schema[word] if isinstance(schema.get(word), list) else ():
            yield from _by_schema(value, part, root, at, followed + 1)
    for step, item in _children(value):
        yield from _by_schema(item, _schema_of(schema, step), root, (*at, step), 0)


def _schema_of(schema: Mapping[str, Any], step: str | int) -> object:
    if isinstance(step, int):
        return schema.get("items")
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and step in properties:
        return properties[step]
    return schema.get("additionalProperties")


def _referred(root: object, reference: str) -> object:
    found = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found if reference.startswith("#") else None


def _by_name(value: object, at: Path, *, below: bool) -> Iterator[tuple[Path, object]]:
    """(path, value) of leaves whose own name looks secret, or that of what they stand in."""
    named = value.get("name") if isinstance(value, Mapping) else None
    for step, item in _children(value):
        hides = below
        if isinstance(step, str):
            plain = step.lower().replace("_", "").replace("-", "")
            hides = (looks_secret(step) and plain not in _NAMES_ONLY) or (below and plain not in _REFERENCES and plain not in _NAMES_ONLY)
            if step.startswith("checksum/"):  # of a Secret, perhaps: whoever knows the rest of it could try words
                hides = True
            if step == "value" and isinstance(named, str) and looks_secret(named):  # a variable of a container's environment
                hides = True
        if isinstance(item, Mapping | list):
            yield from _by_name(item, (*at, step), below=hides)
        elif hides and item is not None and not isinstance(item, bool):
            yield (*at, step), item


def _named_secret(path: Path) -> bool:
    return any(looks_secret(step) for step in path if isinstance(step, str))


def _leaves(value: object, at: Path) -> Iterator[tuple[Path, object]]:
    if isinstance(value, Mapping | list):
        for step, item in _children(value):
            yield from _leaves(item, (*at, step))
    elif value is not None:
        yield at, value


def _at(values: object, path: Path) -> object:
    for step in path:
        values = dict(_children(values)).get(step)
    return values


def _children(value: object) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        return ((str(key), item) for key, item in value.items())
    return enumerate(value) if isinstance(value, list) else ()
