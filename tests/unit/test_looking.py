"""How objects are named for a look-up: by attributes the approved plan has, or not at all."""

import pytest
from pydantic import ValidationError

from countersign.adapters.settings import UniqueSettings
from countersign.adapters.terraform.looking import Unique, rules_of
from countersign.core.terraform.document import Number
from tests.requirements import requirement

TOPIC = Unique(id="projects/{project}/topics/{name}")


@requirement("reconcile:look-up")
def test_an_object_is_named_by_values_that_are_known() -> None:
    assert TOPIC.attributes == ("project", "name")
    assert TOPIC.named({"project": "p", "name": "a{b}"}) == "projects/p/topics/a{b}"
    assert Unique(id="{number}").named({"number": Number("12")}) == "12"


@pytest.mark.parametrize("name", [None, "", True, ["a"], {"a": "b"}])
def test_what_is_no_text_names_nothing(name: object) -> None:
    assert TOPIC.named({"project": "p", "name": name}) is None
    assert TOPIC.named({"project": "p"}) is None


def test_a_type_is_looked_up_by_the_first_pattern_that_fits() -> None:
    rules = rules_of({"google_pubsub_*": TOPIC, "google_*": Unique(id="{id}")})

    assert rules.looked_up_by("google_pubsub_topic") == ("project", "name")
    assert rules.looked_up_by("google_project") == ("id",)
    assert rules.looked_up_by("aws_s3_bucket") == ()


@pytest.mark.parametrize("id", ["a-constant", "{}", "{0}", "{a.b}", "{a[0]}", "{a"])
def test_an_id_that_names_no_attribute_is_refused_in_the_settings(id: str) -> None:
    with pytest.raises(ValidationError):
        UniqueSettings(id=id)
