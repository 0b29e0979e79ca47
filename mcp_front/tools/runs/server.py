"""The server that the tools of runs belong to."""

from mcp_front.domain import Domain

RUNS = Domain("runs")
