"""What is kept for how long."""

import pytest

from countersign.core.retention import Retention, rule_of
from countersign.core.run import Mode
from tests.requirements import requirement


@requirement("retention:evidence-stays")
@pytest.mark.parametrize(
    ("kind", "mode", "applied", "setting"),
    [
        ("plan_bundle", Mode.SPECULATIVE, False, "looked_days"),
        ("plan_view", Mode.SPECULATIVE, False, "looked_days"),
        ("log", Mode.VALIDATE, False, "looked_days"),
        ("plan_view", Mode.DRIFT, False, "drift_days"),
        ("plan_bundle", Mode.APPLY, False, "unapplied_days"),
        ("plan_json", Mode.DESTROY, False, "unapplied_days"),
        ("plan_view", Mode.APPLY, False, None),  # what people refused is told for good
        ("plan_bundle", Mode.APPLY, True, None),
        ("apply_log", Mode.APPLY, True, None),
        ("journal", Mode.DESTROY, True, None),
        ("proof", Mode.APPLY, True, None),
    ],
)
def test_what_looked_goes_and_what_was_applied_or_refused_stays(kind: str, mode: Mode, applied: bool, setting: str | None) -> None:
    rule = rule_of(Retention(), kind, mode, applied=applied)

    assert (rule.setting if rule else None) == setting


@requirement("retention:evidence-stays")
def test_only_bundles_of_applied_runs_go_and_only_where_the_operator_says_so() -> None:
    kept = Retention(applied_days=365)

    bundle = rule_of(kept, "plan_bundle", Mode.APPLY, applied=True)
    assert bundle is not None
    assert bundle.told == "the bundle of a run that applied something is kept for 365 days after its end (retention.applied_days)"
    assert rule_of(kept, "journal", Mode.APPLY, applied=True) is None
    assert rule_of(kept, "plan_view", Mode.APPLY, applied=True) is None
