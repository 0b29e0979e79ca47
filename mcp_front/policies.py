"""Policy as callers read it: who must agree to what in one environment."""

from typing import Any

from countersign.core.plan import ChangeClass
from countersign.core.policy import Policy, Rule


def approvals(policy: Policy, env: str) -> list[dict[str, Any]]:
    """The rules that can match in the environment, in their order: the first one that matches a change decides."""
    return [{"classes": [str(c) for c in rule.classes] or ["every other"], "need": str(rule.need)} for rule in _of(policy, env)]


def floors(policy: Policy, env: str) -> list[str]:
    """What holds whatever the rules say."""
    return [
        "what destroys asks at least a person, who types the name",
        *(["every change asks at least a person other than the requester's: it is protected"] if policy.is_protected(env) else []),
    ]


def in_force(policy: Policy, env: str) -> dict[str, Any]:
    return {
        "ref": env,
        "version": policy.version,
        "protected": policy.is_protected(env),
        "approvals": approvals(policy, env),
        "otherwise": "denied: what no rule names is approved by nobody",
        "floors": floors(policy, env),
        "auto_approve": [str(c) for c in policy.auto_approve],
        "approval_hours": policy.approval_hours,
    }


def _of(policy: Policy, env: str) -> list[Rule]:
    return [rule for rule in policy.rules if rule.matches(env, rule.classes[0] if rule.classes else ChangeClass.UPDATE)]
