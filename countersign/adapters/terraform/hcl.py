"""What blocks a configuration in HCL has, read as exactly as the engines read it.

A check before anything runs is worth what its reader is worth: text that the check takes for a comment, and the engine for
a data source, runs unseen. So this follows hclsyntax's own scanner (scan_tokens.rl of hashicorp/hcl v2) token by token and
raises `Unreadable` wherever it is not sure. Expressions are skipped, not understood: judging needs literal texts only.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

UNSETTLED = "${"  # begins the value of whatever is no literal text, number or object

_SPACE = re.compile(r"(?:[ \t]|/\*.*?\*/)*", re.DOTALL)
_LINE_END = re.compile(r"\r?\n|(?:#|//)[^\n]*(?:\n|\Z)|\Z")
_IDENTIFIER = re.compile(r"[^\W\d][\w-]*")
_HEREDOC = re.compile(r"<<-?([A-Za-z_][A-Za-z0-9_-]*)\r?\n")
_LITERAL = re.compile(r'(?:\$\$\{~?|%%\{~?|[$%](?!\{)|\\[^\r\n]|[^$%"\\\r\n])*')
_HEREDOC_TEXT = re.compile(r"(?:\$\$\{~?|%%\{~?|[$%](?!\{)|[^$%\r\n])*")
_PLAIN = re.compile(r"[^\"<#/{}()\[\]\r\n~]+")  # of an expression: nothing in it begins or ends anything
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))|(\$\$|%%)(?=\{)", re.DOTALL)
_SHORT = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
# What Go's bytes.TrimSpace removes; Python's strip removes more.
_GO_SPACE = "\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_CLOSES = {"(": ")", "[": "]", "{": "}"}


class Unreadable(ValueError):
    """The text is no HCL, or nothing this reader is sure about."""


def structure(text: str) -> dict[str, Any]:
    """Blocks and arguments of a file in the shape of JSON configuration: {type: [{'"label"': … {body}}]}, {argument: value}.

    Labels are keys in quotes. A value is a literal text (decoded), True, False, None, an object of values with literal keys, or
    text that begins with UNSETTLED. Raises Unreadable.
    """
    return _Reader(text.removeprefix("\ufeff")).body(closing=False)


class _Reader:
    def __init__(self, text: str) -> None:
        if re.search(r"\r(?!\n)", text) or "\0" in text:
            raise Unreadable("a carriage return alone, or a NUL")
        self._text = text
        self._at = 0

    # Bodies

    def body(self, *, closing: bool) -> dict[str, Any]:
        """Items up to the end of the file, or up to and with the brace that closes the block."""
        found: dict[str, Any] = {}
        while True:
            self._skip_lines()
            if closing and self._take("}"):
                return found
            if self._at == len(self._text):
                if closing:
                    raise self._unsure("a block without its end")
                return found
            name = self._identifier()
            self._space()
            if self._next("=") and not self._next("=="):
                self._at += 1
                if name in found:
                    raise self._unsure(f"{name} is set twice")
                found[name] = self._value()
            else:
                blocks = found.setdefault(name, [])
                if not isinstance(blocks, list):
                    raise self._unsure(f"{name} is an argument and a block")
                blocks.append(self._block())
            self._space()
            if not (closing and self._next("}")):
                self._line_end()

    def _block(self) -> dict[str, Any]:
        labels: list[str] = []
        while not self._take("{"):
            labels.append(self._label())
            self._space()
        block = self.body(closing=True)
        for label in reversed(labels):
            block = {f'"{label}"': block}
        return block

    def _label(self) -> str:
        if not self._next('"'):
            return self._identifier()
        label = self._string()
        if label is None:
            raise self._unsure("a label that is no literal")
        return label

    # Values

    def _value(self) -> Any:
        """The value of an argument, up to the end of its line or the brace behind it."""
        self._space()
        start = self._at
        value: Any = None
        literal = False
        try:
            if self._next("{"):
                value, literal = self._object(), True
            elif self._next('"'):
                value = self._string()
                literal = value is not None
            self._space()
            literal = literal and self._at_end_of_value()
        except Unreadable:
            literal = False
        if literal:
            return value
        self._at = start
        self._skip_expression(ends=("\n", "}"))
        raw = self._text[start : self._at].strip()
        if not raw:
            raise self._unsure("an argument without a value")
        return {"true": True, "false": False, "null": None}.get(raw, f"{UNSETTLED}{raw}}}")

    def _at_end_of_value(self) -> bool:
        return self._next("}") or self._next(",") or _LINE_END.match(self._text, self._at) is not None

    def _object(self) -> dict[str, Any]:
        """An object whose keys are literal. Raises Unreadable for any other, and the caller takes it as an expression."""
        self._take("{")
        found: dict[str, Any] = {}
        while True:
            self._skip_lines()
            if self._take("}"):
                return found
            key = self._label()
            self._space()
            if key == "for" or not (self._take("=") or self._take(":")):
                raise self._unsure("no plain object")
            if key in found or self._next("=") or self._next(">"):
                raise self._unsure("no plain object")
            found[key] = self._item()
            self._space()
            if not self._take(",") and not self._next("}"):
                self._line_end()

    def _item(self) -> Any:
        self._space()
        start = self._at
        if self._next('"') and (text := self._string()) is not None:
            self._space()
            if self._at_end_of_value():
                return text
        self._at = start
        self._skip_expression(ends=("\n", "}", ","))
        return f"{UNSETTLED}{self._text[start : self._at].strip()}}}"

    # Expressions

    def _skip_expression(self, *, ends: tuple[str, ...]) -> None:
        """To the first of `ends` outside of brackets, or the end of the text; it is not taken."""
        open_: list[str] = []
        for token in self._tokens():
            if not open_ and token in (*ends, ""):
                return
            self._count(token, open_)

    def _skip_template(self) -> None:
        """Behind `${` or `%{`, to behind its closing brace."""
        open_: list[str] = []
        for token in self._tokens():
            if not open_ and token in ("}", "~}"):
                self._at += len(token)
                return
            self._count(token, open_)

    def _count(self, token: str, open_: list[str]) -> None:
        if token == "":
            raise self._unsure("an expression without its end")
        if token in _CLOSES:
            open_.append(_CLOSES[token])
        elif token in (")", "]", "}", "~}") and (not open_ or open_.pop() != token):
            raise self._unsure("brackets that do not match")

    def _tokens(self) -> Iterator[str]:
        """Brackets, commas and line ends of an expression as they come, "" at the end; everything else is skipped.

        Each is given before it is taken, so that who stops there stands before it. A comment is a line end.
        """
        text = self._text
        while True:
            self._space()
            if self._at == len(text):
                yield ""
                return
            letter = text[self._at]
            if letter == '"':
                self._string()
            elif letter in "()[]{},":
                yield letter
                self._at += 1
            elif text.startswith("~}", self._at):
                yield "~}"
                self._at += 2
            elif letter in "\n#" or text.startswith(("\r\n", "//"), self._at):
                yield "\n"
                self._match(_LINE_END)
            elif text.startswith("<<", self._at):
                self._heredoc()
            elif letter in "</~":
                self._at += 1
            else:
                plain = _PLAIN.match(text, self._at)
                assert plain is not None
                comma = plain.group().find(",")
                self._at = plain.end() if comma < 0 else self._at + comma

    def _string(self) -> str | None:
        """A quoted text: decoded, or None where something is put into it."""
        start = self._at
        self._at += 1
        literal = True
        while True:
            self._match(_LITERAL)
            if self._take('"'):
                return self._decoded(self._text[start + 1 : self._at - 1]) if literal else None
            self._into_template("a text without its end")
            literal = False

    def _heredoc(self) -> None:
        """To the line end behind its closing marker, which the engines take for the end of the line as well."""
        begin = _HEREDOC.match(self._text, self._at)
        if begin is None:
            raise self._unsure("a heredoc without a name")
        marker, self._at = begin.group(1), begin.end()
        whole_line = True
        while True:
            text = self._match(_HEREDOC_TEXT)
            if self._next("\n") or self._next("\r\n"):
                if whole_line and text.strip(_GO_SPACE) == marker:
                    return
                self._at = self._text.index("\n", self._at) + 1
                whole_line = True
                continue
            whole_line = False
            self._into_template("a heredoc without its end")

    def _into_template(self, otherwise: str) -> None:
        if not (self._take("${") or self._take("%{")):
            raise self._unsure(otherwise)
        self._take("~")
        self._skip_template()

    def _decoded(self, raw: str) -> str:
        def one(found: re.Match[str]) -> str:
            if code := found.group(1) or found.group(2):
                return chr(int(code, 16))
            if doubled := found.group(4):
                return doubled[0]
            if (letter := _SHORT.get(found.group(3))) is None:
                raise self._unsure("an unknown escape")
            return letter

        try:
            return unicodedata.normalize("NFC", _ESCAPE.sub(one, raw))
        except (OverflowError, ValueError) as broken:
            raise self._unsure("an unknown escape") from broken

    # Characters

    def _identifier(self) -> str:
        found = _IDENTIFIER.match(self._text, self._at)
        if found is None:
            raise self._unsure("something that is no name")
        self._at = found.end()
        return found.group()

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        assert found is not None  # these patterns match nothing as well
        self._at = found.end()
        return found.group()

    def _space(self) -> None:
        self._match(_SPACE)

    def _skip_lines(self) -> None:
        while True:
            self._space()
            found = _LINE_END.match(self._text, self._at)
            if found is None or found.end() == self._at:
                return
            self._at = found.end()

    def _line_end(self) -> None:
        found = _LINE_END.match(self._text, self._at)
        if found is None:
            raise self._unsure("more on the line than expected")
        self._at = found.end()

    def _next(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        if not self._next(text):
            return False
        self._at += len(text)
        return True

    def _unsure(self, what: str) -> Unreadable:
        return Unreadable(f"{what} in line {self._text.count(chr(10), 0, self._at) + 1}")
