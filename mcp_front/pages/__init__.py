"""The page for people: what waits for whom, each run as a reviewer reads it, and the forms that decide.

It is drawn here on every request, works without JavaScript and needs no build step. Nothing decides in this package: what a form
sends becomes the call of a tool by a person, with the rights, the refusals and the signature such a call has over MCP.
"""

from mcp_front.pages.app import routes

__all__ = ["routes"]
