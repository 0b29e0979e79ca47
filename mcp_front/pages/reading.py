"""An artifact of a run, in pieces: what the engine said or planned, as text and nothing else."""

import re

from starlette.responses import Response

from countersign.core.errors import NotFound
from mcp_front.pages.run import run_of
from mcp_front.pages.visit import Visit

_ID = re.compile(r"^[A-Za-z0-9_.:-]{1,80}\Z")
LINES = 500


async def artifact(visit: Visit) -> Response:
    artifact_id = str(visit.request.path_params["artifact_id"])
    if not _ID.match(artifact_id):
        raise NotFound("there is no such artifact")
    async with visit.front.store.read() as conn:
        run = await run_of(visit, visit.call(), conn)
    begin = visit.number("from") - 1
    data = (await visit.use("read_artifact", artifact_id=artifact_id, lines=LINES, **{"from": begin}))["data"]
    if data["run_id"] != run.id:
        raise NotFound("there is no such artifact of this run")
    return await visit.draw("artifact.html", run=run, artifact=data)
