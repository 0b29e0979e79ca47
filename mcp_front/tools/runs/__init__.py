"""`runs`: start, follow, decide, cancel and resume durable runs, and read what they plan, said and did."""

from mcp_front.tools.runs import acting, deciding, reading  # declare the tools
from mcp_front.tools.runs.server import RUNS

__all__ = ["RUNS", "acting", "deciding", "reading"]
