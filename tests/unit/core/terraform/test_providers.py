"""What to do where a provider does not come, told from the engine's own words (Terraform 1.11.4)."""

import pytest

from countersign.core.terraform.providers import REGISTRIES, advice
from tests.requirements import requirement

FOLDER = "the operator's folder of providers"
MISSING = (
    "Could not retrieve the list of available versions for provider fake.test/countersign/fake: provider fake.test/countersign/fake was "
    "not found in any of the search locations\n\n  - /srv/providers"
)
NO_VERSION = (
    "Could not retrieve the list of available versions for provider fake.test/countersign/fake: no available releases match the given\n"
    "constraints 9.9.9"
)
CONSTRAINT = (
    "Could not retrieve the list of available versions for provider fake.test/countersign/fake: locked provider "
    "fake.test/countersign/fake 0.0.1 does not match configured version constraint 9.9.9; must use terraform init -upgrade"
)
CHECKSUM = (
    "Error while installing fake.test/countersign/fake v0.0.1: the local package for fake.test/countersign/fake 0.0.1 doesn't match any "
    "of the checksums previously recorded in the dependency lock file"
)
CHANGES = (
    "Provider dependency changes detected Changes to the required provider dependencies were detected, but the lock file is read-only."
)


@requirement("bad:provider-not-there")
@pytest.mark.parametrize(
    ("said", "origin", "told"),
    [
        (MISSING, FOLDER, f"{FOLDER} has no such package of fake.test/countersign/fake: use a version it has, or ask the operator to add"),
        (NO_VERSION, FOLDER, f"{FOLDER} has no such package of fake.test/countersign/fake"),
        (NO_VERSION, REGISTRIES, f"{REGISTRIES} have no such package of fake.test/countersign/fake; correct its source or version"),
        (
            CONSTRAINT,
            FOLDER,
            "the lock file pins fake.test/countersign/fake, and the configuration asks for another version: run `tofu init",
        ),
        (CHECKSUM, FOLDER, f"the package of fake.test/countersign/fake 0.0.1 from {FOLDER} is not the one that the lock file pins"),
        (CHANGES, FOLDER, "run `tofu init` in the folder and commit .terraform.lock.hcl"),
        ("provider a/b: does not have a package available for your current platform, linux_arm64", FOLDER, "of the provider"),
        ("the mirror's package of a.b/c/d is not available", FOLDER, "has no such package of the provider"),
    ],
)
def test_the_engines_words_become_something_to_do(said: str, origin: str, told: str) -> None:
    assert told in (advice(said, engine="tofu", origin=origin) or "")


def test_other_failures_get_no_advice_about_providers() -> None:
    assert advice("Module not found", engine="terraform", origin=REGISTRIES) is None
