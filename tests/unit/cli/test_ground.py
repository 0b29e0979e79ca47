"""What stands before a start: folder, lock, environment and settings; and what doctor says about them."""

import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.settings import Settings
from countersign.adapters.store.database import SCHEMA_HEAD
from countersign.cli import doctor, schema, session
from countersign.cli.embedded_temporal import command
from countersign.cli.ground import Ground, check_ports, held, prepare_folder
from countersign.cli.schema import Standing
from countersign.core.attributes import SEARCH_ATTRIBUTES
from countersign.core.errors import FailedPrecondition
from tests.requirements import requirement
from tests.unit.cli.conftest import Invoke, document


def settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings(data=tmp_path, **more).model_copy(update={"data": tmp_path / "data"})  # whatever $COUNTERSIGN_DATA says


def test_the_data_folder_is_made_private_and_tightened_where_it_was_not(tmp_path: Path) -> None:
    new, open_ = tmp_path / "a" / "b", tmp_path / "open"
    open_.mkdir(mode=0o755)

    for folder in (new, open_):
        prepare_folder(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_data_folder_that_cannot_be_made_says_what_to_name_instead(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(FailedPrecondition, match="--data or COUNTERSIGN_DATA"):
        prepare_folder(tmp_path / "file" / "data")


def test_one_data_folder_has_one_up_and_the_second_names_the_first(tmp_path: Path) -> None:
    assert not held(tmp_path)
    with Ground(tmp_path) as ground:
        ground.write("http://127.0.0.1:8700", {})
        assert held(tmp_path)
        with pytest.raises(FailedPrecondition, match=f"process {os.getpid()}, front http://127.0.0.1:8700"), Ground(tmp_path):
            pass
    assert not held(tmp_path)
    with Ground(tmp_path):
        pass


def test_two_parts_on_one_port_are_told_apart_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="the front and the state API are both set to port 8700; change COUNTERSIGN_STATE_PORT"):
        check_ports(settings(tmp_path, state_port=8700))
    with pytest.raises(
        FailedPrecondition, match="the front and the worker's probes are both set to port 8700; change COUNTERSIGN_WORKER_PORT"
    ):
        check_ports(settings(tmp_path, worker_port=8700))


def test_parts_inherit_no_credential_of_the_shell_that_starts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "TF_VAR_x", "SSH_AUTH_SOCK", "COUNTERSIGN_KEY", "LD_PRELOAD"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("COUNTERSIGN_POLICY__APPROVAL_HOURS", "2")

    env = session.child_environment(settings(tmp_path, front_port=1234))

    assert not {n for n in env if n.startswith(("AWS", "GOOGLE", "TF_", "SSH", "LD_"))}
    assert "COUNTERSIGN_KEY" not in env
    assert env["COUNTERSIGN_POLICY__APPROVAL_HOURS"] == "2"
    assert env["COUNTERSIGN_FRONT_PORT"] == "1234"
    assert env["COUNTERSIGN_DATA"] == str(tmp_path / "data")
    assert "PATH" in env


def test_the_embedded_temporal_never_leaves_the_loopback(tmp_path: Path) -> None:
    exposed = settings(tmp_path, host="0.0.0.0")

    words = command(exposed)

    assert words[words.index("--ip") + 1] == "127.0.0.1"
    assert session.child_environment(exposed)["COUNTERSIGN_TEMPORAL_ADDRESS"] == "127.0.0.1:7233"
    assert "COUNTERSIGN_TEMPORAL_ADDRESS" not in session.child_environment(settings(tmp_path))


def test_the_embedded_temporal_is_told_what_it_needs_when_its_file_is_made(tmp_path: Path) -> None:
    words = command(settings(tmp_path))

    assert [w for w in words if w.endswith("=Keyword")] == [f"{name}=Keyword" for name in SEARCH_ATTRIBUTES]
    assert "history.transferProcessorMaxPollRPS=2000" in words
    assert "journal_mode=WAL" in words
    assert "--ui-disable-news-fetch" in words


def test_a_named_data_folder_counts_more_than_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERSIGN_DATA", str(tmp_path / "of-the-environment"))

    assert session.settings_of(tmp_path / "named").data == tmp_path / "named"
    assert session.settings_of(None).data == tmp_path / "of-the-environment"


# The schema's version


def at_version(tmp_path: Path, version: str) -> Settings:
    made = settings(tmp_path)
    made.data.mkdir(mode=0o700, parents=True)
    with sqlite3.connect(made.data / "countersign.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (version,))
    connection.close()
    return made


def test_the_newest_known_version_is_the_one_the_store_writes() -> None:
    assert schema.versions()[-1] == SCHEMA_HEAD


def test_a_store_is_new_current_or_not_to_be_touched_by_looking(tmp_path: Path) -> None:
    assert schema.standing(settings(tmp_path)) is Standing.NONE
    assert schema.standing(at_version(tmp_path / "a", SCHEMA_HEAD)) is Standing.CURRENT
    assert schema.standing(at_version(tmp_path / "b", "9999")) is Standing.UNKNOWN
    assert schema.standing(settings(tmp_path, database="postgresql+psycopg://x")) is Standing.UNKNOWN


# doctor


def graded(findings: list[doctor.Finding]) -> dict[str, str]:
    return {finding.what: finding.grade for finding in findings}


def test_doctor_needs_an_engine_and_says_how_to_get_one(tmp_path: Path) -> None:
    here = settings(tmp_path, search_path=str(tmp_path), terraform={"executable": tmp_path / "none"})

    finding = doctor.engine(here)

    assert finding.grade == "missing"
    assert "terraform.executable" in finding.fix


def test_doctor_sees_what_others_could_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "local.key").write_text("x")
    (data / "local.key").chmod(0o644)

    findings = doctor.folder(data)

    assert graded(findings) == {"data folder": "missing", "key file": "missing"}
    assert [finding.fix for finding in findings] == [f"chmod 700 {data}", f"chmod 600 {data / 'local.key'}"]


@requirement("bad:newer-data-folder")
def test_doctor_knows_a_folder_of_a_newer_version(tmp_path: Path) -> None:
    finding = doctor.schema(at_version(tmp_path, "9999"))

    assert finding.grade == "missing"
    assert "run the newer Countersign" in finding.fix


def test_doctor_changes_nothing_and_ends_well_where_nothing_is_missing(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ports", lambda _: [])

    result = invoke("doctor", "--json")

    told = document(result)
    assert result.exit_code == 0, told
    assert told["ok"] is True
    assert told["running"] is False
    assert {"python", "terraform", "git", "temporal", "disk", "front"} <= {finding["what"] for finding in told["findings"]}
    assert not (tmp_path / "data").exists()


def test_doctor_ends_with_1_where_something_needed_is_missing(invoke: Invoke, data: Path) -> None:
    data.chmod(0o755)

    result = invoke("doctor")

    assert result.exit_code == 1
    assert f"chmod 700 {data}" in " ".join(result.stdout.split())


def test_demo_says_how_to_agree_beforehand_where_nobody_can_be_asked(invoke: Invoke) -> None:
    result = invoke("demo")

    assert result.exit_code == 1
    assert "DEMO_YES=1" in result.stderr
