"""Who asks and who agrees.

An id reads `kind:name` (`person:ana`, `agent:claude`, `machine:ci`). An agent acts for a person; for approvals that
person counts as the requester, so that nobody countersigns what their own agent asked for where policy says so.
"""

from enum import StrEnum

from countersign.core.model import Payload


class Kind(StrEnum):
    PERSON = "person"
    AGENT = "agent"
    MACHINE = "machine"


class Principal(Payload):
    id: str  # "person:ana"
    kind: Kind
    acts_for: str | None = None  # the id of a person, for agents and machines

    @property
    def person(self) -> str | None:
        """The person behind: themselves, or whom they act for; None for a machine of nobody."""
        return self.id if self.kind is Kind.PERSON else self.acts_for


# Whoever reaches a Temporal UI that is trusted: one person, who has no name.
UNNAMED_PERSON = Principal(id="person:temporal-ui", kind=Kind.PERSON)
# The service itself, where it records what policy decided or what time ended.
SYSTEM = Principal(id="machine:countersign", kind=Kind.MACHINE)
