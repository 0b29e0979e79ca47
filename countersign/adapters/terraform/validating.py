"""What is wrong with a configuration: what the operator does not allow, format, init and validate, each with file and line."""

import json
from collections.abc import Iterable
from dataclasses import asdict

from countersign.adapters.terraform.checkout import OVERRIDE
from countersign.adapters.terraform.judging import came_from, source_in_words
from countersign.adapters.terraform.preparing import checked, initialised
from countersign.adapters.terraform.session import FINDINGS, Session, document_in
from countersign.core.engine import Finding, Planned
from countersign.core.errors import PolicyDenied, ProviderError
from countersign.core.plan import Plan
from countersign.core.terraform.events import redacted


async def validated(session: Session, build: str | None) -> Planned:
    """Findings instead of a plan. Without state and without credentials; raises where there is no source to look at."""
    findings: list[Finding] = []
    environment = session.environment({}, backend=False)
    try:
        source_ = await checked(session)
        await initialised(session, source_, environment, backend="none")
        findings += await session.validate(environment, session.place.tree)
    except (ProviderError, PolicyDenied) as refused:
        if "findings" not in refused.details:
            raise
        findings += [Finding(**f) for f in refused.details["findings"]]  # type: ignore[attr-defined]  # Session.failure wrote them
    findings += await _format(session)
    return await _told(session, findings, build)


async def _format(session: Session) -> list[Finding]:
    ended = await session.document("fmt", session.commands.format_check(), session.environment({}, backend=False))
    if ended.code != 3:  # 0: fine; 2: broken, which validate says better
        return []
    names = ended.out.decode(errors="replace").splitlines()
    hint = f"Run `{session.executable.name} fmt`."
    return [
        Finding(severity="warning", summary="not formatted", detail=hint, file=session.redactor.line(name))
        for name in names
        if name.strip() and not name.startswith((OVERRIDE, ".terraform"))
    ]


async def _told(session: Session, findings: Iterable[Finding], build: str | None) -> Planned:
    findings = [redacted(f, session.redactor) for f in findings][:FINDINGS]
    return Planned(
        plan=Plan(engine=session.executable.name, engine_build=build or await asked_version(session), source=source_in_words(session)),
        plan_sha256="",
        bundle=b"",
        plan_json=b"",
        view=json.dumps({"v": "countersign.findings/1", "findings": [asdict(f) for f in findings]}, ensure_ascii=False).encode(),
        semantic_document=b"",
        inputs=came_from(session),
        log=session.log(),
        findings=tuple(findings),
        lineage=session.job.state.lineage,
        serial=session.job.state.serial,
    )


async def asked_version(session: Session) -> str:
    name = session.executable.name
    ended = await session.document("version", session.commands.version(), session.environment({}, backend=False))
    try:
        return f"{name} {json.loads(document_in(ended.out))['terraform_version']}"
    except (ValueError, KeyError):
        return f"{name} unknown"
