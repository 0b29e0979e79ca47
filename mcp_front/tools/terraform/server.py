"""The server that the tools of Terraform belong to, and the arguments that several of them take.

At the door only shapes and names are checked. What a configuration declares is known to the plan alone, and so a variable that
nobody declared is refused there.
"""

from typing import Annotated, Any

from pydantic import Field

from mcp_front.domain import Domain

TERRAFORM = Domain("terraform")

Env = Annotated[str, Field(max_length=130, description="org/env, or env")]
Workspace = Annotated[str, Field(max_length=63)]
Vars = Annotated[dict[str, Any] | None, Field(description="secrets only as {secret: slug}")]
