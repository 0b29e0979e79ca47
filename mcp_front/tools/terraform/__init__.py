"""`terraform`: workspaces as records, their states, and the runs that plan, apply and destroy them."""

from mcp_front.tools.terraform import destroying, locks, records, runs  # declare the tools
from mcp_front.tools.terraform.server import TERRAFORM

__all__ = ["TERRAFORM", "destroying", "locks", "records", "runs"]
