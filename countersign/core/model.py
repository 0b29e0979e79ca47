"""One base for everything that is stored or travels through Temporal.

Frozen, so that nobody edits a fact after it was recorded; unknown fields are ignored, so that an older worker can read
what a newer one wrote (design §4: every payload is one model with defaults).
"""

from pydantic import BaseModel, ConfigDict


class Payload(BaseModel):
    # Validators are made when a model is first used: each part loads many and uses some.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)
