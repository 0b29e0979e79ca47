"""Equal documents give equal bytes, and bytes a digest that is always written the same way."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from countersign.core.digests import DIGEST, canonical, digest_of, sha256
from tests.requirements import requirement

TEXT = st.text(max_size=6, alphabet=st.characters(exclude_categories=["Cs"]))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


def turned(document: Any) -> Any:
    """The same document with the keys of every object in the opposite order."""
    if isinstance(document, dict):
        return {key: turned(document[key]) for key in reversed(document)}
    return [turned(item) for item in document] if isinstance(document, list) else document


@requirement("digest:canonical")
def test_canonical_bytes_are_json_with_sorted_keys_and_no_spaces_in_utf8() -> None:
    assert canonical({"b": [1, True, None], "a": {"é": "\u2028\n"}}) == '{"a":{"é":"\u2028\\n"},"b":[1,true,null]}'.encode()


@requirement("digest:canonical")
@given(DOCUMENTS)
def test_the_order_of_keys_does_not_matter(document: object) -> None:
    assert canonical(turned(document)) == canonical(document)


@given(DOCUMENTS)
def test_a_canonical_document_says_what_the_document_says(document: object) -> None:
    assert json.loads(canonical(document)) == document


@given(DOCUMENTS, DOCUMENTS)
def test_documents_that_differ_have_digests_that_differ(one: object, other: object) -> None:
    assume(repr(turned(turned(one))) != repr(other) and json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))

    assert digest_of(one) != digest_of(other)


@requirement("digest:canonical")
@pytest.mark.parametrize("document", [1.0, {"a": 1.5}, {"a": [{"b": (1, 2.0)}]}, float("nan"), float("inf"), {"a": -0.0}])
def test_floats_are_refused_wherever_they_stand(document: object) -> None:
    with pytest.raises(TypeError, match="float"):
        canonical(document)


@pytest.mark.parametrize("document", [{1: "a"}, {"a": [{None: 1}]}, {True: 1}])
def test_keys_that_are_no_text_are_refused(document: object) -> None:
    with pytest.raises(TypeError, match="key"):
        canonical(document)


@pytest.mark.parametrize("document", [b"bytes", {"a": {1, 2}}, object()])
def test_what_is_no_json_is_refused(document: object) -> None:
    with pytest.raises(TypeError):
        canonical(document)


def test_a_tuple_is_a_list() -> None:
    assert canonical({"a": (1, ("x",))}) == canonical({"a": [1, ["x"]]}) == b'{"a":[1,["x"]]}'


def test_a_digest_is_sha256_in_hex() -> None:
    assert sha256(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_of({"a": 1}) == "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@given(st.binary(max_size=20))
def test_every_digest_is_recognised(data: bytes) -> None:
    assert DIGEST.match(sha256(data))


@pytest.mark.parametrize("text", ["", "a" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65, "sha256:" + "A" * 64, "sha256:" + "g" * 64])
def test_other_texts_are_no_digests(text: str) -> None:
    assert not DIGEST.match(text)


def test_a_digest_with_a_line_end_is_none() -> None:
    assert not DIGEST.match("sha256:" + "a" * 64 + "\n")
