"""The search attributes of a run in Temporal, fixed: all Keyword (design §4, ids)."""

ORG, ENV, STACK, STATE, TYPE, ENGINE, CHANGE_CLASS, REQUESTER = SEARCH_ATTRIBUTES = (
    "CsOrg",
    "CsEnv",
    "CsStack",
    "CsState",
    "CsType",
    "CsEngine",
    "CsChangeClass",
    "CsRequester",
)
