"""Questions to what only a worker reaches."""

from countersign.core.reading import WITHIN, read_step
from countersign.core.step import engine_queue


def test_whoever_looks_does_not_wait_behind_plans() -> None:
    step = read_step("helm")

    assert step.name == "helm.read"
    assert step.queue != engine_queue("helm")
    assert (step.attempts, step.attempt_timeout) == (2, WITHIN)
