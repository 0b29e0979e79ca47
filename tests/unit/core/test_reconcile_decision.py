"""After a lost apply: go on, ask for the difference, or wait for an operator with what to type."""

import pytest

from countersign.core.reconcile import Commands, Next, Proof, Stop, decide, failed_plan, foreign_lock, survivors, unknown_object

COMMANDS = Commands(run_id="run_1")
PROVEN = Proof(lines=("a: done",), left=2)
RESUME = ("Then let the run look again:", "    countersign resume run_1")


def test_a_proof_goes_on_under_the_approval_there_is() -> None:
    decision = decide(COMMANDS, PROVEN, [], crashes=1, approval_live=True)

    assert decision.next is Next.CONTINUE
    assert decision.why == "What happened was approved, and 2 of its changes are left."
    assert (decision.lines, decision.difference, decision.instructions) == (("a: done",), (), ())


@pytest.mark.parametrize("live", [True, False])
def test_where_nothing_is_left_no_approval_is_needed_any_more(live: bool) -> None:
    decision = decide(COMMANDS, Proof(lines=()), [], crashes=1, approval_live=live)

    assert (decision.next, decision.why) == (Next.CONTINUE, "What happened was approved, and nothing is left to do.")


def test_an_expired_approval_asks_again_though_all_is_proven() -> None:
    decision = decide(COMMANDS, PROVEN, [], crashes=1, approval_live=False)

    assert decision.next is Next.ASK
    assert decision.why == "The approval has expired; what is left is a part of what was approved."
    assert (decision.difference, decision.lines) == ((), ("a: done",))


def test_what_is_not_proven_is_asked_and_only_the_difference_is_shown() -> None:
    decision = decide(COMMANDS, Proof(lines=("a: done",), refused=("b: size not as approved",), left=1), [], crashes=2, approval_live=True)

    assert decision.next is Next.ASK
    assert decision.difference == ("b: size not as approved",)


def test_nobody_is_asked_about_a_plan_that_is_not_whole() -> None:
    torn = Proof(lines=(), refused=("the plan ended in errors",), trustworthy=False)

    decision = decide(COMMANDS, torn, [], crashes=1, approval_live=True)

    assert decision.next is Next.OPERATOR
    assert decision.instructions == (
        "The plan of what is left failed: the plan ended in errors.",
        "    countersign logs run_1",
        *RESUME,
    )


def test_without_a_plan_nothing_goes_on() -> None:
    assert decide(COMMANDS, None, [], crashes=1, approval_live=True).next is Next.OPERATOR


def test_what_only_an_operator_can_tell_comes_before_any_question() -> None:
    stop = unknown_object(COMMANDS, 'fake_thing.a["b c"]', "its creation may have been under way")

    for proof in (PROVEN, Proof(lines=(), refused=("x",)), None):
        decision = decide(COMMANDS, proof, [stop], crashes=1, approval_live=True)

        assert decision.next is Next.OPERATOR
        assert decision.instructions == (
            'fake_thing.a["b c"]: its creation may have been under way. Look for it in the cloud, then tell the run: the first line if'
            " exactly one exists, else the second.",
            "    countersign resume run_1 --exists 'fake_thing.a[\"b c\"]='ID",
            "    countersign resume run_1 --absent 'fake_thing.a[\"b c\"]'",
            *RESUME,
        )


@pytest.mark.parametrize(("crashes", "next"), [(2, Next.CONTINUE), (3, Next.OPERATOR), (4, Next.OPERATOR)])
def test_a_third_crash_is_an_operators(crashes: int, next: Next) -> None:
    assert decide(COMMANDS, PROVEN, [], crashes=crashes, approval_live=True).next is next


def test_every_reason_is_told() -> None:
    stops = [survivors(2, "host-1"), foreign_lock(lock_id="l-1", who="ana@laptop", since="2026-01-01"), Stop(why="And more.")]

    decision = decide(COMMANDS, PROVEN, stops, crashes=3, approval_live=True)

    assert decision.why == (
        "2 processes of the lost apply still run on host-1, or nobody can tell that they do not; end them first. "
        "The state is locked by ana@laptop since 2026-01-01 (lock l-1), and not by this run; ask them to finish. "
        "And more. The apply was lost 3 times; find out what ends it before it goes on."
    )
    assert decision.instructions[-2:] == RESUME
    assert "    grep -l COUNTERSIGN_ATTEMPT /proc/[0-9]*/environ" in decision.instructions


def test_a_failed_plan_says_where_to_read() -> None:
    assert failed_plan(COMMANDS, "cannot import").why == "The plan of what is left failed: cannot import."
    assert failed_plan(COMMANDS, "x").commands == ("countersign logs run_1",)
