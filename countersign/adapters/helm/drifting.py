"""A look at one release: what was changed outside of it since it was deployed, told like a plan so that people read it as one.

Nothing of it is ever applied. The next deploy of the release takes it into account by itself.
"""

import asyncio

from countersign.adapters.helm.reading import hooks_of, looked_for_drift
from countersign.adapters.helm.session import Surroundings, at_work
from countersign.core.digests import canonical, sha256
from countersign.core.engine import Beat, Finding, PlanJob, Planned, Progress
from countersign.core.errors import FailedPrecondition
from countersign.core.helm import diff
from countersign.core.helm.recovery import deployed
from countersign.core.helm.redaction import Veil, secret_texts


async def make_plan(job: PlanJob, beat: Beat, *, around: Surroundings) -> Planned:
    release = job.stack.release
    if release is None:
        raise FailedPrecondition(f"{job.stack.path} is no release")
    async with at_work(around, env=job.stack.env, attempt_id=job.attempt_id, reveal=job.reveal) as session:
        build = await session.build()
        current = deployed(await session.history(release))
        if current is None:
            raise FailedPrecondition(f"{release} is not deployed, so there is nothing it could differ from", next=["helm_get_release"])
        await beat(Progress(current="asking the cluster"))
        where = [release.name, "-n", release.namespace, "--revision", str(current.number)]
        status = await session.asked(["status", *where])
        objects = await session.parsed(str(status.get("manifest") or ""), release.namespace)
        hooks = await session.parsed(hooks_of(status), release.namespace)
        session.hide(secret_texts((*objects, *hooks), values=status.get("config") or {}))
        looked, unasked = await looked_for_drift(session, release, objects)
        veil = Veil(around.fingerprints, session.redactor.secrets, scope=str(release))
        found = diff.drifted(looked)
        changed = [one for one in found if one.action != "no-op"]
        records = sorted((diff.record_of(one, around.fingerprints) for one in changed), key=lambda one: str(one["address"]))
        document = canonical({"v": "countersign.helm-drift/1", "release": str(release), "objects": records})
        plan = diff.drift_of(found, engine_build=build, veil=veil, semantic_digest=sha256(document))
        view = await asyncio.to_thread(diff.view_of, changed, mode="drift", engine_build=build, veil=veil)
        return Planned(
            plan=plan,
            plan_sha256=sha256(document),
            bundle=b"",
            plan_json=document,
            view=view,
            semantic_document=document,
            inputs={"revision": current.number},
            log=f"compared {len(objects)} objects of {release}, revision {current.number}, with the cluster: {plan.in_words}\n",
            warnings=tuple(f"{one['address']} could not be compared: {one['why']}" for one in unasked),
            findings=tuple(Finding(severity="warning", summary=one["why"], address=one["address"]) for one in unasked),
            account=f"cluster {session.cluster.name} ({session.identity.server}, {session.identity.uid})",
        )
