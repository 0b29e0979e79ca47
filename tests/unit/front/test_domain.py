"""A tool's arguments: flat, strict, and refused by name without repeating what was given."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from countersign.core.errors import InvalidArgument
from mcp_front.domain import Access, Domain, Toolset, ToolSpec
from mcp_front.envelope import Answer
from mcp_front.tools import toolset

TOOLS = toolset().tools
RUN = "run_" + "0" * 26


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str
    ref: str | None = None


def a_tool(**options: Any) -> ToolSpec:
    domain = Domain("toys")

    @domain.tool("toy_move", options.pop("access", Access.WRITE), title="Move", **options)
    async def toy_move(
        call: Any,
        place: Place,
        how: Literal["slowly", "fast"] = "slowly",
        tags: Annotated[list[str], Field(max_length=2)] = [],  # noqa: B006
        from_: Annotated[int | None, Field(alias="from", ge=0)] = None,
        note: str | None = None,
    ) -> Answer:
        """Move a toy."""
        return Answer(text="moved")

    return domain.tools["toy_move"]


def refused(spec: ToolSpec, **arguments: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as wrong:
        spec.validated(arguments)
    return wrong.value


def test_an_unknown_argument_is_refused_with_the_nearest_name() -> None:
    error = refused(TOOLS["apply_terraform"], env="dev", dry_runn=True)

    assert (error.field, "did you mean dry_run?" in error.message) == ("dry_runn", True)


def test_an_argument_like_no_other_is_answered_with_what_there_is() -> None:
    assert "it takes ref" in refused(TOOLS["get_environment"], zzz=1).message
    assert "it takes none" in refused(TOOLS["whoami"], zzz=1).message


def test_an_unknown_argument_inside_another_is_refused_as_well() -> None:
    error = refused(TOOLS["terraform_register_workspace"], env="dev", source={"paht": "demo", "path": "demo"})

    assert (error.field, "did you mean path?" in error.message) == ("source.paht", True)


def test_a_refusal_never_repeats_the_value() -> None:
    secret = "hunter2-hunter2"
    for error in (
        refused(TOOLS["run_get"], run_id=secret),
        refused(TOOLS["run_approve"], run_id=RUN, plan_digest=secret),
        refused(TOOLS["apply_terraform"], env="dev", vars=secret),
        refused(TOOLS["run_wait"], run_id=RUN, until=secret),
        refused(TOOLS["apply_terraform"], env="dev", wait_seconds=secret),
    ):
        assert secret not in error.message
        assert error.field


def test_null_is_how_models_leave_an_argument_out() -> None:
    own, given = a_tool().validated({"place": {"path": "a"}, "how": None, "note": None, "message": None})

    assert (own["how"], own["note"], given.message) == ("slowly", None, None)


def test_objects_and_lists_may_come_as_the_text_of_json() -> None:
    own, _ = a_tool().validated({"place": '{"path": "a"}', "tags": '["x"]'})

    assert (own["place"], own["tags"]) == (Place(path="a"), ["x"])


def test_an_argument_may_be_called_what_python_keeps_for_itself() -> None:
    spec = a_tool()

    assert "from" in spec.input_schema["properties"]
    assert spec.validated({"place": {"path": "a"}, "from": 3})[0]["from_"] == 3


def test_arguments_of_the_class_are_kept_from_the_function() -> None:
    own, given = a_tool(run=True).validated({"place": {"path": "a"}, "idempotency_key": "k" * 8, "wait_seconds": 3, "dry_run": True})

    assert set(own) == {"place", "how", "tags", "from_", "note"}
    assert (given.idempotency_key, given.wait_seconds, given.dry_run) == ("k" * 8, 3, True)


@pytest.mark.parametrize("key", ["short", "k" * 129])
def test_a_key_has_eight_to_128_characters(key: str) -> None:
    assert refused(a_tool(), place={"path": "a"}, idempotency_key=key).field == "idempotency_key"


def test_only_what_is_destroyed_at_once_takes_a_typed_name() -> None:
    assert "confirm_name" in a_tool(access=Access.DESTROY).input_schema["properties"]
    assert "confirm_name" not in a_tool(access=Access.DESTROY, run=True).input_schema["properties"]
    assert "confirm_name" not in a_tool(access=Access.WRITE).input_schema["properties"]


def test_a_tool_that_starts_a_run_is_never_one_that_only_reads() -> None:
    with pytest.raises(ValueError, match="does not only read"):
        a_tool(access=Access.READ, run=True)


def test_a_name_that_is_declared_twice_is_a_mistake_of_ours() -> None:
    one, two = Domain("one"), Domain("two")
    for domain in (one, two):

        @domain.tool("same", Access.READ, title="Same")
        async def same(call: Any) -> Answer:
            """Read."""
            return Answer(text="")

    with pytest.raises(ValueError, match="declared in two domains"):
        Toolset([one, two])


def test_a_dotted_or_older_name_finds_the_tool() -> None:
    tools = toolset()

    for spelled, name in {
        "run.start": "run_start",
        "terraform.list_workspaces": "terraform_list_workspaces",
        "terraform_apply": "apply_terraform",
        "terraform.destroy": "destroy_terraform",
        "get_stack_job": "run_get",
    }.items():
        found = tools.get(spelled)
        assert found is not None
        assert found.name == name
    assert tools.get("run.nothing") is None
