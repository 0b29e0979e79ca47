"""What the variables of a configuration get, and from where.

In the order of the engine, later ones winning: files of the folder that it reads by itself (`terraform.tfvars`, `*.auto.tfvars`), the
file of the environment (`env/prod.tfvars`), the record of the stack, the request. Outputs of other stacks come in variables of their
own. Values go by a file outside of the tree, 0600, and never by arguments.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from countersign.adapters import private
from countersign.adapters.terraform.environment import secrets_of_credential
from countersign.adapters.terraform.preparing import Checked
from countersign.adapters.terraform.session import Session
from countersign.core.redaction import Redactor, strings_in
from countersign.core.terraform import reads, source, variables


@dataclass(frozen=True, kw_only=True)
class Values:
    given: dict[str, object] = field(repr=False)  # by us: of the record, the request, and other stacks
    files: tuple[Path, ...] = ()  # for the command line, in this order


async def values_of(session: Session, source_: Checked, credential: Mapping[str, str]) -> Values:
    """The values, written down for the engine; from here on the secrets among them are hidden."""
    job = session.job
    declared = source.variables(source_.files)
    sensitive = frozenset(name for file in source_.files.values() for name in file.sensitive)
    values = variables.merged(job.stack.vars, job.vars, declared=declared)
    read = reads.variables_of(job.reads, env=job.stack.env, given=values, declared=declared, sensitive=sensitive)
    secrets = {slug: await job.reveal(slug) for _, slug in variables.secrets_named(values)}
    values = {name: variables.with_secrets(value, secrets.__getitem__) for name, value in values.items()} | read
    known = {job.state.password, *secrets_of_credential(credential), *secrets.values()}
    known |= {text for name in sensitive for text in strings_in(values.get(name))}
    session.redactor = Redactor(known)
    found = [name for name in of_environment(job.stack.env) if name in source_.tree.files]
    for name in found:
        session.note(f"variables of {name}")
    written = [written_variables(session, json.dumps(values))] if values else []
    return Values(given=values, files=(*(session.place.tree / name for name in found), *written))


def of_environment(env: str) -> tuple[str, str]:
    """Where a source keeps the values of one environment, for stacks of several that share it."""
    slug = env.rpartition("/")[2]
    return f"env/{slug}.tfvars", f"env/{slug}.tfvars.json"


def written_variables(session: Session, text: str) -> Path:
    path = session.place.side / "countersign.tfvars.json"
    private.write(path, text.encode())
    return path
