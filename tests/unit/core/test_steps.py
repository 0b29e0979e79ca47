"""Timeouts and retries, written out: what may run twice is decided on one page and checked here."""

from datetime import timedelta

import pytest

from countersign.core import attributes
from countersign.core.run import RunState
from countersign.core.step import RUNS_QUEUE, Step, engine_queue, host_queue
from countersign.core.steps import (
    BEGIN_DRIFT,
    DECIDE,
    ENGINES,
    MOVE,
    STAND,
    ApplyInput,
    Decided,
    DecideInput,
    DriftBegun,
    DriftInput,
    EndInput,
    EndReason,
    FollowInput,
    RunRef,
    Standing,
    engine_steps,
    home_of,
    pause_before_look,
)
from tests.requirements import requirement

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


@requirement("I3")
def test_an_apply_is_tried_once_and_watched_closely() -> None:
    apply = ENGINES["terraform"].apply

    assert (apply.name, apply.takes, apply.gives) == ("terraform.apply", ApplyInput, Standing)
    assert (apply.attempts, apply.heartbeat_timeout, apply.attempt_timeout) == (1, 5 * SECOND, 4 * HOUR)
    assert (apply.queue, apply.on_host) == ("countersign-terraform", False)


def test_following_is_tried_for_as_long_as_it_takes_on_the_attempts_own_machine() -> None:
    follow = ENGINES["terraform"].follow

    assert (follow.name, follow.takes, follow.gives) == ("terraform.follow", FollowInput, Standing)
    assert (follow.attempts, follow.heartbeat_timeout, follow.attempt_timeout) == (0, 5 * SECOND, 4 * HOUR)
    assert (follow.on_host, follow.schedule_to_start) == (True, timedelta(minutes=2))


def test_planning_may_be_tried_again() -> None:
    plan = ENGINES["terraform"].plan

    assert (plan.name, plan.takes, plan.gives, plan.queue) == ("terraform.plan", RunRef, Standing, "countersign-terraform")
    assert (plan.attempts, plan.heartbeat_timeout, plan.attempt_timeout) == (0, 5 * SECOND, HOUR)


@pytest.mark.parametrize(
    ("step", "name", "takes", "gives"),
    [
        (DECIDE, "run.decide", DecideInput, Decided),
        (MOVE, "run.move", EndInput, Standing),
        (STAND, "run.stand", RunRef, Standing),
        (BEGIN_DRIFT, "drift.begin", DriftInput, DriftBegun),
    ],
)
def test_the_runs_own_steps_are_short_and_never_wait_behind_an_engine(
    step: Step[RunRef, Standing], name: str, takes: type, gives: type
) -> None:
    assert (step.name, step.takes, step.gives) == (name, takes, gives)
    assert (step.queue, step.attempt_timeout, step.attempts, step.on_host) == (RUNS_QUEUE, 30 * SECOND, 0, False)


def test_another_engine_has_the_same_steps_under_its_own_name() -> None:
    steps = engine_steps("helm", plan=SECOND, apply=2 * SECOND)

    assert [s.name for s in (steps.plan, steps.apply, steps.follow)] == ["helm.plan", "helm.apply", "helm.follow"]
    assert [s.attempt_timeout for s in (steps.plan, steps.apply, steps.follow)] == [SECOND, 2 * SECOND, 2 * SECOND]
    assert [s.queue for s in (steps.plan, steps.apply)] == ["countersign-helm"] * 2
    assert steps.reconcile is None


def test_queues_are_of_engines_and_of_machines() -> None:
    assert (RUNS_QUEUE, engine_queue("helm"), host_queue("node-7")) == ("countersign", "countersign-helm", "countersign-host-node-7")


def test_a_run_lives_where_its_engine_works_so_that_its_steps_are_handed_over_with_the_task_that_asks_for_them() -> None:
    assert (home_of("terraform"), ENGINES["terraform"].plan.queue, ENGINES["terraform"].apply.queue) == ("countersign-terraform",) * 3
    assert (home_of("helm"), engine_steps("other").home) == ("countersign-helm", "countersign-other")


@pytest.mark.parametrize("engine", ["composite", "of-a-newer-version"])
def test_what_is_of_no_engine_here_lives_on_the_queue_that_every_worker_serves(engine: str) -> None:
    assert home_of(engine) == RUNS_QUEUE


def test_a_method_says_which_step_it_does() -> None:
    class Steps:
        @STAND.implemented_by
        async def stand(self, ref: RunRef) -> Standing:
            return Standing(state=RunState.PENDING)

    assert Steps.stand.__step__ is STAND  # type: ignore[attr-defined]


def test_a_payload_of_a_newer_version_is_read_by_an_older_one() -> None:
    assert Standing.model_validate({"state": "applied", "from_a_newer_version": 1}) == Standing(state=RunState.APPLIED)
    assert EndInput(org="o", run_id="r", reason=EndReason.LOST).by is None


def test_the_search_attributes_are_fixed() -> None:
    assert attributes.SEARCH_ATTRIBUTES == (
        "CsOrg",
        "CsEnv",
        "CsStack",
        "CsState",
        "CsType",
        "CsEngine",
        "CsChangeClass",
        "CsRequester",
    )
    assert (attributes.ORG, attributes.STATE, attributes.REQUESTER) == ("CsOrg", "CsState", "CsRequester")


def test_a_composite_is_led_by_whoever_is_there_for_as_long_as_it_takes() -> None:
    steps = ENGINES["composite"]

    assert {step.queue for step in (steps.plan, steps.apply, steps.follow)} == {"countersign-composite"}
    assert (steps.apply.attempts, steps.follow.attempts, steps.follow.schedule_to_start) == (1, 0, None)
    assert {step.attempt_timeout for step in (steps.plan, steps.apply, steps.follow)} == {timedelta(days=7)}
    assert steps.reconcile is None


def test_what_waits_is_looked_at_soon_at_first_and_seldom_later() -> None:
    assert [pause_before_look(number) for number in (0, 39, 40, 1000)] == [15 * SECOND, 15 * SECOND, 120 * SECOND, 120 * SECOND]
