"""The least an MCP server can be: the SDK's own, with one tool that does nothing. What it takes is not ours."""

import sys

import uvicorn
from mcp.server.mcpserver import MCPServer

server: MCPServer = MCPServer("trivial", log_level="WARNING")


@server.tool()
async def nothing() -> dict[str, str]:
    """Do nothing."""
    return {"done": "nothing"}


if __name__ == "__main__":
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[1]), http="h11", log_level="warning", access_log=False)
