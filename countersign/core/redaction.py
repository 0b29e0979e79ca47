"""Keeping secrets, and characters that lie, out of whatever people and models read.

Redaction is for accidents: it hides what is known to be secret (also escaped, quoted or encoded) and what has the shape of
a credential. Whoever authors configuration can still read what the stack's credential can read (design §1, limits).
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus

HIDDEN = "(redacted)"
SHORTEST = 6  # characters; shorter "secrets" occur everywhere, and hiding them would tell more than it hides
LINE_SHORTEST = 12  # characters of a line of a multi-line secret that is hidden by itself
_FEW = 200  # up to here one regular expression is faster than the scan

# Terminal sequences go as a whole, so that "\x1b[31mred" leaves "red" and not "[31mred".
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[@-Z\\-_])")
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff\U0001d173-\U0001d17a\ud800-\udfff\ue000-\uf8ff]"
)

_SHAPES = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)",
            r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",  # JSON web tokens
            r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
            r"\bAIza[A-Za-z0-9_-]{35}",
            r"\bya29\.[A-Za-z0-9_.-]{20,}",
            r"\bgh[pousr]_[A-Za-z0-9]{30,}",
            r"\bgithub_pat_[A-Za-z0-9_]{30,}",
            r"\bglpat-[A-Za-z0-9_-]{20,}",
            r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
            r"\bsk-[A-Za-z0-9_-]{20,}",
            r"\bhvs\.[A-Za-z0-9_-]{20,}",
            r"\bdop_v1_[a-f0-9]{40,}",
            r"\bnpm_[A-Za-z0-9]{36}",
            r"(?i:(?<=bearer )[A-Za-z0-9._~+/=-]{16,})",
        )
    ),
    re.DOTALL,
)
_USERINFO = re.compile(r"(://)[^/\s:@\"'\\]*:[^/\s@\"'\\]+(@)")
_SECRET_NAME = re.compile(
    r"(?:^|[_.\-\]])(?:password|passwd|passphrase|pwd|secret|secrets|token|tokens|api_?key|private_?key|access_?key|secret_?key|account_?key"
    r"|client_?secret|credential|credentials|connection_?string|kubeconfig|auth|authorization)(?:_(?:base64|b64|pem|data|string|json|value))?$",
    re.IGNORECASE,
)


def clean_text(text: str) -> str:
    """`text` without terminal sequences and without control, bidi and invisible characters; line ends and tabs stay."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n"))
    return INVISIBLE.sub("", text)


def clean_line(text: str) -> str:
    """The same on one line: for names, addresses and summaries."""
    return " ".join(clean_text(text).replace("\n", " ").replace("\t", " ").split(" ")).strip()


def cut(text: str, limit: int = 256) -> str:
    """At most `limit` characters, with the whole length told where something is missing. Cut only what is redacted already."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def looks_secret(name: str) -> bool:
    """Whether an attribute of this name is hidden although nothing marks it: `db_password`, `token`, `privateKey`."""
    return _SECRET_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)) is not None


def strings_in(value: object) -> Iterable[str]:
    """Every text in a JSON value, keys of objects left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)


class Redactor:
    """Hides what one attempt knows to be secret, and what has the shape of a credential.

    The set of secrets is itself a secret: a redactor lives as long as its attempt and is stored nowhere in clear.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.secrets = frozenset(s for s in secrets if len(s) >= SHORTEST)
        forms = sorted({form for secret in self.secrets for form in _forms(secret)}, key=lambda f: (-len(f), f))
        self._known = re.compile("|".join(map(re.escape, forms))) if 0 < len(forms) <= _FEW else None
        self._many: dict[str, list[str]] = {}  # the first characters of a form → the forms, longest first
        if len(forms) > _FEW:
            for form in forms:
                self._many.setdefault(form[:SHORTEST], []).append(form)

    def text(self, text: str) -> str:
        """`text` with secrets replaced. Give whole lines, so that no secret is split, and cut afterwards."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        elif self._many:
            text = self._scan(text)
        return _USERINFO.sub(rf"\1{HIDDEN}\2", _SHAPES.sub(HIDDEN, text))

    def line(self, text: str, limit: int = 256) -> str:
        """One clean, redacted line of at most `limit` characters. Redacted twice: hidden characters may have split a secret."""
        return cut(self.text(clean_line(self.text(text))), limit)

    def lines(self, text: str) -> str:
        """The same for a text of many lines, uncut."""
        return self.text(clean_text(self.text(text)))

    def value(self, value: object) -> object:
        """A JSON value with the same shape: texts and keys redacted, and hidden wholly below a name that looks secret."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): HIDDEN if looks_secret(str(key)) and item not in (None, True, False) else self.value(item)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def _scan(self, text: str) -> str:
        """Longest form at each place, in time that does not grow with the number of secrets."""
        out: list[str] = []
        begin = at = 0
        while at <= len(text) - SHORTEST:
            found = next((f for f in self._many.get(text[at : at + SHORTEST], ()) if text.startswith(f, at)), None)
            if found is None:
                at += 1
                continue
            out += (text[begin:at], HIDDEN)
            begin = at = at + len(found)
        return "".join((*out, text[begin:]))


def _forms(secret: str) -> Iterable[str]:
    """How a secret may be spelled: as it is, in JSON (also Go's), in a URL, in base64 at any offset, line by line."""
    pieces = [secret, *(line for line in map(str.strip, secret.splitlines()) if len(line) >= LINE_SHORTEST)]
    for piece in pieces:
        wide, narrow = json.dumps(piece, ensure_ascii=False)[1:-1], json.dumps(piece)[1:-1]
        yield from (piece, wide, narrow, quote(piece, safe=""), quote_plus(piece))
        for escaped in (wide, narrow):
            yield escaped.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
            yield json.dumps(escaped)[1:-1]  # a JSON document inside a JSON string
    data = secret.encode(errors="surrogatepass")
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        # The first and the last digit mix with the neighbours' bits.
        inner = encoded[(0, 2, 3)[offset] : len(encoded) - (1 if (offset + len(data)) % 3 else 0)]
        if len(inner) >= SHORTEST:
            yield from (inner, inner.replace("+", "-").replace("/", "_"))
