"""`helm`: releases in the clusters of environments, and the runs that deploy, roll back and uninstall them."""

from mcp_front.tools.helm import charts, releases, runs  # declare the tools
from mcp_front.tools.helm.server import HELM

__all__ = ["HELM", "charts", "releases", "runs"]
