"""Keeping secrets, and characters that lie, out of whatever people and models read.

Redaction is for accidents: it hides what is known to be secret (also escaped, quoted or encoded) and what has the shape of
a credential. Whoever authors configuration can still read what the stack's credential can read (design §1, limits).
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from itertools import islice
from urllib.parse import quote

from pydantic_core import SchemaValidator, core_schema

HIDDEN = "(redacted)"
SHORTEST = 6  # characters; shorter "secrets" occur everywhere, and hiding them would tell more than it hides
LINE_SHORTEST = 12  # characters of a line of a multi-line secret that is hidden by itself
_SHORT = 64  # characters of a line that is remembered: names of attributes and types come a thousand times
_REMEMBERED = 4096  # lines
_FEW = 200  # up to here one regular expression is faster than the scan

# Terminal sequences go as a whole, so that "\x1b[31mred" leaves "red" and not "[31mred". Those that carry a text (titles, links)
# lose their ends and keep the text: else two names of somebody's choice would hide what stands between them.
_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]")
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff]"
)

# What a text must hold, in small letters, to be searched for a shape: most hold none, and looking for these takes no time.
_SHAPES = tuple(
    (marker, re.compile(pattern, re.DOTALL))
    for marker, pattern in (
        ("private key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)"),
        # JSON web tokens. What only begins like one is taken whole and kept: else each "-eyJ" in it would be read to its end again.
        ("eyj", r"(?P<kept>\beyJ[A-Za-z0-9_-]{8,}+(?!\.[A-Za-z0-9_-]{8,}\.))|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
        ("akia", r"\bAKIA[A-Z0-9]{16}\b"),
        ("asia", r"\bASIA[A-Z0-9]{16}\b"),
        ("aiza", r"\bAIza[A-Za-z0-9_-]{35}"),
        ("ya29.", r"\bya29\.[A-Za-z0-9_.-]{20,}"),
        ("gh", r"\bgh[pousr]_[A-Za-z0-9]{30,}"),
        ("github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{30,}"),
        ("glpat-", r"\bglpat-[A-Za-z0-9_-]{20,}"),
        ("xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
        ("sk-", r"\bsk-[A-Za-z0-9_-]{20,}"),
        ("hvs.", r"\bhvs\.[A-Za-z0-9_-]{20,}"),
        ("dop_v1_", r"\bdop_v1_[a-f0-9]{40,}"),
        ("npm_", r"\bnpm_[A-Za-z0-9]{36}"),
        ("bearer ", r"(?i:(?<=bearer )[A-Za-z0-9._~+/=-]{16,})"),
        ("://", r"(?<=://)[^/\s:@\"'\\]*:[^/\s@\"'\\]+(?=@)"),  # user:password@
    )
)
# What every shape holds, as one pattern for another engine of regular expressions: it looks for all of them at once, in a twentieth
# of the time, and takes texts in ASCII only, as nearly all are.
_may_have_a_shape = SchemaValidator(
    core_schema.str_schema(
        pattern=r"PRIVATE KEY|eyJ|AKIA|ASIA|AIza|ya29\.|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|sk-|hvs\.|dop_v1_|npm_|(?i:bearer )|://"
    )
).isinstance_python
_SECRET_NAME = re.compile(
    r"(?:^|[_.\-\]])(?:(?:password|passwd|passphrase|pwd|secret|token|api_?key|private_?key|access_?key|secret_?key|account_?key"
    r"|client_?secret|credential|connection_?string|kubeconfig)s?|auth|authorization)(?:_(?:base64|b64|pem|data|string|json|value))?\Z",
    re.IGNORECASE,
)


def clean_text(text: str) -> str:
    """`text` without terminal sequences and without control, bidi and invisible characters; line ends and tabs stay."""
    if text.isascii() and (text.isprintable() or text.replace("\n", "").replace("\t", "").isprintable()):
        return text  # nearly always, and much faster
    return INVISIBLE.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))


def clean_line(text: str) -> str:
    """The same on one line: for names, addresses and summaries."""
    return clean_text(text).replace("\n", " ").replace("\t", " ").strip()


def cut(text: str, limit: int = 256) -> str:
    """At most `limit` characters, with the whole length told where something is missing. Cut only what is redacted already."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


@lru_cache(maxsize=4096)  # the same few names at every object of a type
def looks_secret(name: str) -> bool:
    """Whether an attribute of this name is hidden although nothing marks it: `db_password`, `token`, `privateKey`."""
    return _SECRET_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)) is not None


def strings_in(value: object) -> Iterable[str]:
    """Every text in a JSON value, keys of objects left out."""
    if isinstance(value, str):
        yield str(value)  # as it was written, also where the type compares by another rule
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_in(item)


class Redactor:
    """Hides what one attempt knows to be secret, and what has the shape of a credential.

    The set of secrets is itself a secret: a redactor lives as long as its attempt and is stored nowhere in clear.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.secrets = frozenset(s for s in secrets if len(s) >= SHORTEST)
        forms = sorted({form for secret in self.secrets for form in _forms(secret)}, key=lambda f: (-len(f), f))
        self._few = forms if len(forms) <= _FEW else []
        self._lines: dict[str, str] = {}  # short lines as they may be shown
        self._many: dict[str, list[str]] = {}  # the first characters of a form → the forms, longest first
        if len(forms) > _FEW:
            for form in forms:
                self._many.setdefault(form[:SHORTEST], []).append(form)

    @cached_property
    def _known(self) -> re.Pattern[str]:  # made when one is found: to make it takes longer than to look for a few
        return re.compile("|".join(map(re.escape, self._few)))

    def text(self, text: str) -> str:
        """`text` with secrets replaced. Give whole lines, so that no secret is split, and cut afterwards."""
        if len(text) < SHORTEST:
            return text  # neither a secret nor a credential is as short
        if self._many:
            text = self._scan(text)
        else:
            for form in self._few:
                if form in text:
                    text = self._known.sub(HIDDEN, text)
                    break
        if text.isascii() and not _may_have_a_shape(text):
            return text
        small = text.lower()
        for marker, shape in _SHAPES:
            if marker in small:
                text = shape.sub(_hidden, text)
        return text

    def line(self, text: str, limit: int = 256) -> str:
        """One clean, redacted line of at most `limit` characters."""
        if len(text) > _SHORT or limit < 4 * _SHORT or type(text) is not str:  # a number of a plan is a text and equals others
            return self._line(text, limit)
        if (known := self._lines.get(text)) is None:
            if len(self._lines) >= _REMEMBERED:
                self._lines.clear()
            known = self._lines[text] = self._line(text, limit)
        return known

    def look_through(self, texts: Iterable[str]) -> None:
        """Look through many at once for what has to be hidden: `line` need not look again at those where nothing is."""
        short = set(islice((text for text in texts if len(text) <= _SHORT and _clean(text)), _REMEMBERED // 2))
        if self.text(whole := "\n".join(short)) == whole:
            if len(self._lines) > _REMEMBERED // 2:
                self._lines.clear()
            self._lines |= zip(short, short, strict=True)

    def _line(self, text: str, limit: int) -> str:
        if _clean(text):
            return cut(self.text(text), limit)  # nothing to be cleaned
        return cut(self._cleaned(self.lines(text), clean_line), limit)

    def lines(self, text: str) -> str:
        """The same for a text of many lines, uncut."""
        return self._cleaned(self.text(text), clean_text)

    def _cleaned(self, redacted: str, clean: Callable[[str], str]) -> str:
        """Redacted again where cleaning took something away: it may have split a secret."""
        cleaned = clean(redacted)
        return redacted if cleaned == redacted else self.text(cleaned)

    def value(self, value: object) -> object:
        """A JSON value with the same shape: texts and keys redacted, and hidden wholly below a name that looks secret."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): HIDDEN if looks_secret(str(key)) and not _harmless(item) else self.value(item)
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


def _clean(text: str) -> bool:
    """Whether there is nothing in it that lines for people do not have."""
    return text.isascii() and text.isprintable() and text.strip() == text


def _hidden(found: re.Match[str]) -> str:
    return found[0] if found.lastgroup == "kept" else HIDDEN


def _harmless(value: object) -> bool:
    return value is None or isinstance(value, bool)


# What encoders of URLs leave as it is: everything strict, paths, encodeURIComponent, Go's paths and user names.
_LEFT_ALONE = ("", "/", "!'()*", "$&+=:@", "$&+,;=")


def _forms(secret: str) -> Iterator[str]:
    """How a secret may be spelled: as it is, in JSON (also Go's, also twice), in a URL, in base64 at any offset, line by line."""
    for piece in (secret, *(line for line in map(str.strip, secret.splitlines()) if len(line) >= LINE_SHORTEST)):
        yield piece
        for once in set(_in_json(piece)):
            yield from (once, *_in_json(once))
        for safe in _LEFT_ALONE:
            quoted = quote(piece, safe=safe, errors="surrogatepass")
            for spelled in (quoted, re.sub("%..", lambda hexadecimal: hexadecimal.group().lower(), quoted)):
                yield from (spelled, spelled.replace("%20", "+"))
    yield from _in_base64(secret.encode(errors="surrogatepass"))


def _in_json(text: str) -> Iterator[str]:
    for ascii_only in (False, True):
        written = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield written
        for letter in "<>&\u2028\u2029":  # Go escapes these too
            written = written.replace(letter, f"\\u{ord(letter):04x}")
        yield written


def _in_base64(data: bytes) -> Iterator[str]:
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        # The first and the last digit mix with the neighbours' bits.
        inner = encoded[(0, 2, 3)[offset] : len(encoded) - (1 if (offset + len(data)) % 3 else 0)]
        yield from (inner, inner.replace("+", "-").replace("/", "_"))
    for width in (57, 48):  # bytes of a line of 76 or 64 digits, where it is written in lines
        whole = range(0, len(data) - width + 1, width)
        yield from (base64.b64encode(data[at : at + width]).decode() for at in whole)
