"""The tools, one module or package per server of the catalogue."""

from mcp_front.domain import Toolset


def toolset() -> Toolset:
    from mcp_front.tools import core, helm, runs, terraform

    return Toolset([core.CORE, runs.RUNS, terraform.TERRAFORM, helm.HELM])
