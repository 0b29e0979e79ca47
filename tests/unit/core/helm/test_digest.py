"""What makes one plan of a release another one, and what does not."""

from typing import Any

from countersign.core.fingerprints import Fingerprints
from countersign.core.helm.diff import Looked, compared
from countersign.core.helm.digest import GONE, document_of, marked, moved, semantic_digest
from countersign.core.helm.manifests import parse
from tests.requirements import requirement

PRINTS = Fingerprints(key=b"k" * 32, kid="k1")


def live(**metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "u1", **metadata}, "data": {"a": "1"}}


@requirement("helm:stale-by-generation")
def test_a_pod_that_restarts_makes_no_plan_stale_and_a_change_does() -> None:
    before = marked("Deployment.apps/a", live(generation=3, resourceVersion="264"), PRINTS)

    assert marked("Deployment.apps/a", live(generation=3, resourceVersion="283"), PRINTS) == before
    assert marked("Deployment.apps/a", live(generation=4, resourceVersion="283"), PRINTS) != before
    assert marked("Deployment.apps/a", live(generation=3, uid="u2"), PRINTS) != before
    assert marked("Deployment.apps/a", live(generation=3, annotations={"helm.sh/resource-policy": "keep"}), PRINTS) != before


def test_what_has_no_generation_is_known_by_what_is_in_it() -> None:
    before = marked("ConfigMap/a", live(resourceVersion="1"), PRINTS)

    assert marked("ConfigMap/a", live(resourceVersion="2"), PRINTS) == before
    assert marked("ConfigMap/a", live(resourceVersion="2") | {"data": {"a": "2"}}, PRINTS) != before
    assert "1" not in before.removeprefix("u1").split()


def test_what_moved_is_named() -> None:
    planned = {"a": marked("a", None, PRINTS), "b": "u1 generation 1", "c": "u2 generation 1", "d": GONE}

    assert moved(planned, {"a": "u3 generation 1", "b": "u1 generation 1", "c": "u2 generation 2"}) == ("a", "c")


def digest(*, values: object = None, hook: str = "a", **facts: Any) -> str:
    made = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: '1'}\n"
    job = f"apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {hook}, annotations: {{helm.sh/hook: pre-upgrade}}}}\n"
    (manifest,), hooks = parse(made, namespace="n"), parse(job, namespace="n")
    differences = compared([Looked(manifest=manifest, predicted=manifest.body)])
    document = document_of(
        differences, facts={"chart": "sha256:1", **facts}, live={"ConfigMap/n/a": GONE}, hooks=hooks, values=values, fingerprints=PRINTS
    )
    return semantic_digest(document)


def test_equal_plans_have_equal_digests_and_others_other_ones() -> None:
    assert digest() == digest()
    assert len({digest(), digest(values={"a": 1}), digest(hook="b"), digest(chart="sha256:2"), digest(base=2)}) == 5


def test_values_are_no_part_of_the_document_in_clear() -> None:
    manifest = parse("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", namespace="n")
    looked = [Looked(manifest=one, predicted=one.body) for one in manifest]
    document = document_of(compared(looked), facts={}, live={}, hooks=(), values={"password": "correct horse"}, fingerprints=PRINTS)

    assert "correct horse" not in str(document)
