"""What nobody gets to read: known secrets however they are spelled, shapes of credentials, and characters that lie."""

import base64
import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from countersign.core.redaction import HIDDEN, SHORTEST, Redactor, clean_line, clean_text, cut, looks_secret, strings_in
from tests.requirements import requirement

SECRET = "hunter2-Tr0ub4dor&3"
PEM = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUJ8\nhQ4=\n  c2Vjb25kIGxpbmU+\n-----END CERTIFICATE-----\n"

# Letters that some spelling changes: quotes, escapes, what HTML, URLs and base64 treat in their own way, and wide ones.
LETTERS = "ab1\"'\\/&<>%+= \n\t:@?#é\u2028世🔑~-_!()*$;"
SECRETS = st.text(alphabet=LETTERS, min_size=SHORTEST, max_size=24) | st.text(
    alphabet=st.characters(exclude_categories=["Cs"]), min_size=SHORTEST, max_size=24
)


def in_go_json(text: str, *, ascii_only: bool = False) -> str:
    written = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
    for letter in "<>&\u2028\u2029":
        written = written.replace(letter, f"\\u{ord(letter):04x}")
    return written


def in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def in_ascii_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def lower_percent(text: str) -> str:
    return re.sub("%..", lambda found: found.group().lower(), quote(text, safe=""))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": in_json,
    "JSON in ASCII": in_ascii_json,
    "JSON as Go writes it": in_go_json,
    "JSON in JSON": lambda s: in_json(in_json(s)),
    "JSON in JSON, in ASCII": lambda s: in_ascii_json(in_ascii_json(s)),
    "JSON in JSON as Go writes it": lambda s: in_go_json(in_go_json(s)),
    "Go's JSON in another's": lambda s: in_ascii_json(in_go_json(s)),
    "a URL": lambda s: quote(s, safe=""),
    "a path of a URL": quote,
    "a form": quote_plus,
    "encodeURIComponent": lambda s: quote(s, safe="!'()*~"),
    "a URL in small letters": lower_percent,
    "base64": lambda s: base64.b64encode(s.encode()).decode().rstrip("="),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(s.encode()).decode().rstrip("="),
}


@requirement("redaction:every-spelling", "promise:no-secrets")
@pytest.mark.parametrize("spelling", SPELLINGS)
@given(secret=SECRETS, before=st.text(max_size=8), after=st.text(max_size=8))
@example(secret=SECRET, before="password=", after="\n")
@example(secret='é"&<>\\ /+?x', before="", after="")
@example(secret="a b/c+d&e=f", before="", after="")
def test_a_secret_survives_in_no_spelling(spelling: str, secret: str, before: str, after: str) -> None:
    spelled = SPELLINGS[spelling](secret)
    assume(spelled not in HIDDEN and HIDDEN not in spelled)

    assert spelled not in Redactor([secret]).text(before + spelled + after)


@requirement("redaction:every-spelling")
@given(secret=SECRETS, before=st.binary(max_size=8), after=st.binary(max_size=8), url=st.booleans())
def test_of_a_secret_inside_of_something_in_base64_at_most_five_bits_at_each_end_remain(
    secret: str, before: bytes, after: bytes, url: bool
) -> None:
    encode = base64.urlsafe_b64encode if url else base64.b64encode
    assume(secret not in HIDDEN)

    shown = Redactor([secret]).text(encode(before + secret.encode() + after).decode())

    assert HIDDEN in shown
    left, *_, right = shown.split(HIDDEN)
    assert 6 * len(left) <= 8 * len(before) + 5
    assert 6 * len(right.rstrip("=")) <= 8 * len(after) + 5 + 4  # the last digit is filled up with zeros


@requirement("redaction:every-spelling")
@pytest.mark.parametrize("width", [76, 64])
def test_a_long_secret_in_base64_over_many_lines_survives_in_no_whole_line(width: int) -> None:
    secret = "".join(chr(33 + n % 90) for n in range(300))
    encoded = base64.b64encode(secret.encode()).decode()
    lines = [encoded[at : at + width] for at in range(0, len(encoded), width)]

    shown = Redactor([secret]).text("\n".join(lines))

    assert all(line not in shown for line in lines if len(line) == width)


@requirement("redaction:every-spelling")
def test_a_long_line_of_a_secret_is_hidden_by_itself_and_a_short_one_is_not() -> None:
    redactor = Redactor([PEM])

    assert redactor.text("MIIBszCCAVmgAwIBAgIUJ8") == HIDDEN
    assert redactor.text("x c2Vjb25kIGxpbmU+ x") == f"x {HIDDEN} x"
    assert redactor.text("hQ4=") == "hQ4="
    assert redactor.text(PEM) == HIDDEN
    assert redactor.text(PEM.replace("\n", "\r\n")).count(HIDDEN) == 4


@requirement("redaction:every-spelling")
@given(st.lists(SECRETS, min_size=1, max_size=5), st.text(max_size=10))
def test_of_several_secrets_none_survives(secrets: list[str], between: str) -> None:
    assume(all(secret not in HIDDEN and HIDDEN not in secret for secret in secrets))
    redactor = Redactor(secrets)

    shown = redactor.text(between.join(secrets))

    whole = [secret for secret in secrets if secret in shown.replace(HIDDEN, "\x00")]
    assert whole == []


def test_the_longest_secret_is_hidden_whole_where_a_shorter_one_begins_it() -> None:
    assert Redactor(["secret-1", "secret-1-and-more"]).text("secret-1-and-more!") == f"{HIDDEN}!"


FILLER = [f"\ue000filler-{n}" for n in range(40)]  # each in six spellings and more


@settings(max_examples=25)
@given(st.lists(SECRETS, min_size=1, max_size=3), st.text(max_size=30), st.data())
def test_with_thousands_of_secrets_the_same_is_hidden(secrets: list[str], text: str, data: Any) -> None:
    text = "".join(data.draw(st.permutations([text, *secrets])))
    few, many = Redactor(secrets), Redactor([*secrets, *FILLER])

    assert many._many
    assert not few._many
    assert many.text(text) == few.text(text)


def test_lines_are_shown_the_same_however_many_came_before_and_however_short_they_may_be() -> None:
    redactor = Redactor(["hunter22"])

    for _ in range(2):
        for number in range(5000):
            assert redactor.line(f"item {number} of hunter22") == f"item {number} of (redacted)"
        assert redactor.line("item 1 of hunter22", 6) == "item 1… (20 characters)"
        assert redactor.line("x" * 300) == "x" * 256 + "… (300 characters)"


@given(st.lists(st.text(alphabet=LETTERS, max_size=12) | st.sampled_from(["AKIAIOSFODNN7EXAMPLE", "hunter22", "a\nhunter", "item 1"])))
def test_lines_that_were_looked_through_together_are_shown_as_each_alone(texts: list[str]) -> None:
    together = Redactor(["hunter22", "1\nitem 1"])
    together.look_through(texts)

    assert [together.line(text) for text in texts] == [Redactor(["hunter22", "1\nitem 1"]).line(text) for text in texts]


def test_however_many_lines_are_looked_through_few_are_remembered() -> None:
    redactor = Redactor(["hunter22"])

    for begin in range(0, 20_000, 1500):
        redactor.look_through(f"item {number}" for number in range(begin, begin + 1500))
    redactor.look_through(f"item {number}" for number in range(20_000))

    assert len(redactor._lines) <= 4096
    assert redactor.line("item 7 of hunter22") == "item 7 of (redacted)"


def test_short_words_are_no_secrets() -> None:
    redactor = Redactor(["12345", "abcdef"])

    assert redactor.secrets == {"abcdef"}
    assert redactor.text("12345 abcdef") == f"12345 {HIDDEN}"
    assert Redactor().text("nothing is secret") == "nothing is secret"


def test_a_secret_with_half_a_letter_is_hidden_and_stops_nothing() -> None:
    assert Redactor(["half \ud800 letter"]).text("it is half \ud800 letter.") == f"it is {HIDDEN}."


# Shapes.


@requirement("redaction:shapes", "promise:no-secrets")
@pytest.mark.parametrize(
    "credential",
    [
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza\n",
        "-----BEGIN PRIVATE KEY-----\\nMIIEow\\n-----END PRIVATE KEY-----",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBF\n-----END PGP PRIVATE KEY BLOCK-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "AIza" + "x" * 35,
        "ya29." + "a0AfH6SMBx_y-z." * 2,
        *(f"gh{kind}_" + "a1B2" * 9 for kind in "pousr"),
        "github_pat_" + "11ABCDEFG0_" * 5,
        "glpat-" + "abcDEF123_-" * 2,
        *(f"xox{kind}-123456789012-abcdefABCDEF" for kind in "abeoprs"),
        "sk-" + "ant-api03-AbC_" * 3,
        "hvs." + "CAESIJ" * 4,
        "dop_v1_" + "0a" * 32,
        "npm_" + "a1B2c3" * 6,
    ],
)
@pytest.mark.parametrize("before", ["before", "davor, für"])
def test_the_shape_of_a_credential_is_hidden_without_being_known(credential: str, before: str) -> None:
    assert Redactor().text(f"{before} {credential}") == f"{before} {HIDDEN}"


@requirement("redaction:shapes")
def test_text_that_begins_like_a_token_again_and_again_is_read_once_and_stays() -> None:
    many = "eyJaaaaaaaa-" * 100_000  # read to its end at each of them, it would take hours

    assert Redactor().text(many) == many
    assert Redactor().text(f"{many}.eyJbbbbbbbb.c") == HIDDEN


@requirement("redaction:shapes")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://app:s3cret@db.internal/app", f"postgres://{HIDDEN}@db.internal/app"),
        ("https://x-access-token:abc@github.com/a/b", f"https://{HIDDEN}@github.com/a/b"),
        ("redis://:s3cret@cache:6379/0", f"redis://{HIDDEN}@cache:6379/0"),
        ("amqp://a:b%40c@h and http://c:d@h", f"amqp://{HIDDEN}@h and http://{HIDDEN}@h"),
        ("Authorization: Bearer abcdef0123456789abcdef", f"Authorization: Bearer {HIDDEN}"),
        ("authorization: bearer abcdef0123456789abcdef==", f"authorization: bearer {HIDDEN}"),
    ],
)
def test_what_stands_where_credentials_stand_is_hidden(text: str, shown: str) -> None:
    assert Redactor().text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com:8443/a@b",
        "git@github.com:acme/infra.git",
        "ssh://git@github.com/acme/infra",
        "the bearer of this",
        "risk-assessment-of-something-long",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "sha256:" + "a" * 64,
        "run_wwpcxhp6t46hqd3y3qywghchgc",
        "00000000-0000-0000-0000-000000000001",
        'module.service["api"].terraform_data.replica[0]',
    ],
)
def test_what_only_looks_a_little_like_it_stays(text: str) -> None:
    assert Redactor().text(text) == text


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "passwords",
        "MASTER_PASSWORD",
        "adminPassword",
        "passphrase",
        "pwd",
        "secret",
        "client_secret",
        "token",
        "authToken",
        "tokens",
        "api_key",
        "apikey",
        "apiKey",
        "private_key",
        "privateKey",
        "tls_private_key_pem",
        "secret_access_key",
        "storage_account_key",
        "credentials",
        "connection_string",
        "connection_strings",
        "connectionString",
        "kubeconfig",
        "auth",
        "authorization",
        "input.password",
        "input[0].token",
        "users[3]password",
        "token_base64",
        "secret_value",
    ],
)
def test_names_that_look_secret(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "name",
        "key",
        "public_key",
        "password_policy",
        "secretary",
        "token_type",
        "tokenizer",
        "author",
        "authority",
        "key_name",
        "secret_name",
        "secret_id",
        "unauthorized",
        "compass",
        "",
    ],
)
def test_names_that_do_not(name: str) -> None:
    assert not looks_secret(name)


# Values.


def test_a_value_keeps_its_shape_and_loses_what_is_secret() -> None:
    shown = Redactor([SECRET]).value(
        {
            "text": f"it is {SECRET}",
            "list": [SECRET, 1, None, {"deep": (SECRET,)}],
            SECRET: "as a key",
            "password": "short",
            "nested": {"api_key": {"a": [1]}, "token": 12},
            "number": 3,
        }
    )

    assert shown == {
        "text": f"it is {HIDDEN}",
        "list": [HIDDEN, 1, None, {"deep": [HIDDEN]}],
        HIDDEN: "as a key",
        "password": HIDDEN,
        "nested": {"api_key": HIDDEN, "token": HIDDEN},
        "number": 3,
    }


@pytest.mark.parametrize("value", [None, True, False])
def test_a_name_that_looks_secret_hides_no_answer_of_yes_no_or_nothing(value: object) -> None:
    assert Redactor().value({"token": value}) == {"token": value}


@pytest.mark.parametrize("value", [0, 1, 1.0, "", [], {}])
def test_a_name_that_looks_secret_hides_everything_else(value: object) -> None:
    assert Redactor().value({"token": value}) == {"token": HIDDEN}


def test_every_text_in_a_value_is_found_and_no_key() -> None:
    assert sorted(strings_in({"k": ["a", ("b", {"x": "c"})], "n": 1, "z": None})) == ["a", "b", "c"]


# Characters that lie.

# Default_Ignorable_Code_Point of Unicode, and the bidi controls.
IGNORABLE = [
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
]
VISIBLE_FORMAT = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"  # number signs one sees


@requirement("bad:control-characters")
def test_no_control_bidi_or_invisible_character_is_left() -> None:
    assigned = (range(0x20000), range(0xE0000, 0xE1000), (0xF0000, 0xFFFFD, 0x100000, 0x10FFFD))
    everything = "".join(chr(n) for part in assigned for n in part)

    left = clean_text(everything)

    assert [c for c in left if unicodedata.category(c) in ("Cc", "Cs", "Co", "Zl", "Zp") and c not in "\n\t"] == []
    assert [c for c in left if unicodedata.category(c) == "Cf" and c not in VISIBLE_FORMAT] == []
    assert [hex(n) for first, last in IGNORABLE for n in range(first, last + 1) if chr(n) in left] == []


def test_what_people_write_stays() -> None:
    text = 'acme/dev — "é" 世界 🔑 «ß»\n\tعربي עברית हिन्दी ไทย\u00a0(x)'

    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[1;38;5;196mred\x1b[m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1b(Bascii\x1b7\x1bc", "ascii"),
        ("a\x1b[", "a"),
        ("two\r\nlines", "two\nlines"),
        ("over\rwritten", "overwritten"),
        ("sec\u200bret", "secret"),
        ("\ufefftext", "text"),
    ],
)
def test_terminal_sequences_go_as_a_whole(text: str, shown: str) -> None:
    assert clean_text(text) == shown


@requirement("bad:control-characters")
@pytest.mark.parametrize("begin", ["\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x9d", "\x90"])
@pytest.mark.parametrize("end", ["", "\x07", "\x1b\\", "\x9c"])
def test_no_sequence_hides_what_stands_after_or_in_between(begin: str, end: str) -> None:
    # Two names of an author's choice would else take away a name that stands between them.
    assert clean_text(f"a{begin}b, prod_database{end}, c") == "ab, prod_database, c"


@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b[]0123;m\x07\\\x9b\x9d\r\n\t")))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = clean_text(text)

    assert clean_text(once) == once
    assert len(clean_line(text).splitlines()) <= 1
    assert "\t" not in clean_line(text)


def test_a_line_is_one_and_keeps_its_inner_spaces() -> None:
    assert clean_line(" a\tb\nc  d ") == "a b c  d"


def test_what_is_cut_says_how_long_it_was() -> None:
    assert cut("x" * 256) == "x" * 256
    assert cut("x" * 257) == "x" * 256 + "… (257 characters)"
    assert cut("abcdef", 3) == "abc… (6 characters)"


# All of it together.


@requirement("redaction:every-spelling", "bad:control-characters")
@pytest.mark.parametrize("split", ["\u200b", "\x1b[0m", "\u202e", "\x00", "\u2060\u2060"])
def test_a_secret_that_invisible_characters_split_is_hidden(split: str) -> None:
    text = f"is {SECRET[:7]}{split}{SECRET[7:]}"

    assert Redactor([SECRET]).line(text) == f"is {HIDDEN}"
    assert Redactor([SECRET]).lines(text) == f"is {HIDDEN}"


@requirement("redaction:every-spelling")
@pytest.mark.parametrize("secret", ["tab\tand\x1b[31m", "a\nshort\nlines", "\u200b\u200b\u200b\u200binvisible"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_secret_that_holds_such_characters_is_hidden(secret: str, end: str) -> None:
    text = f"is {secret.replace(chr(10), end)}!"

    assert Redactor([secret]).line(text) == f"is {HIDDEN}!"
    assert Redactor([secret]).lines(text) == f"is {HIDDEN}!"


@given(st.text(max_size=60), SECRETS)
def test_a_line_is_clean_redacted_and_short(text: str, secret: str) -> None:
    shown = Redactor([secret]).line(f"{text}{secret}{text}", 20)

    assert secret not in shown or secret in f"{HIDDEN}… (999 characters)"
    assert len(shown) <= 20 + len("… (999 characters)")
    assert clean_line(shown) == shown


def test_a_line_is_cut_only_after_it_was_redacted() -> None:
    assert Redactor([SECRET]).line("x" * 250 + SECRET) == "x" * 250 + HIDDEN[:6] + "… (260 characters)"
