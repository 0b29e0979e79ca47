"""What a configuration may load is the operator's list, judged before anything of it runs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.engine import Finding
from countersign.core.terraform import source
from countersign.core.terraform.source import AllowList, Declared, Place, declared, judge, places, provider_allowed, source_address
from tests.requirements import requirement

DEFAULT = AllowList()
BLOCK = {"__is_block__": True}  # what python-hcl2 adds to the body of a block


def block(**body: Any) -> dict[str, Any]:
    return {**body, **BLOCK}


def judged(*parsed: dict[str, Any], allow: AllowList = DEFAULT) -> list[str]:
    files = {f"f{n}.tf": declared(one) for n, one in enumerate(parsed)}
    return [finding.summary for finding in judge(files, allow)]


def required(**sources: str) -> dict[str, Any]:
    """As python-hcl2 has it: texts in quotes."""
    providers = {name: {"source": f'"{text}"'} for name, text in sources.items()}
    return {"terraform": [block(required_providers=[block(**providers)])]}


# Providers.


@requirement("source:judged", "bad:foreign-provider")
@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("aws", True),
        ("hashicorp/aws", True),
        ("HashiCorp/AWS", True),
        (" hashicorp/aws ", True),
        ("opentofu/random", True),
        ("registry.terraform.io/hashicorp/aws", True),
        ("registry.opentofu.org/hashicorp/aws", True),
        ("terraform.io/builtin/terraform", True),
        ("terraform", True),
        ("someone/stranger", False),
        ("registry.terraform.io/someone/stranger", False),
        ("evil.example/hashicorp/aws", False),
        ("hashicorp/evil/thing", False),
        ("hashicorp/evil/thing/more", False),
        ("hashicorp", True),
        ("hashicorp.evil/aws", False),
        ("xhashicorp/aws", False),
        ("hashicorp//aws", False),
        ("hashicorp/", False),
        ("terraform.io/other/terraform", False),
        ("", False),
        ("/", False),
    ],
)
def test_by_default_providers_of_the_engines_makers_are_allowed(text: str, allowed: bool) -> None:
    assert provider_allowed(text, DEFAULT) is allowed


@requirement("source:judged")
@pytest.mark.parametrize(
    ("pattern", "text", "allowed"),
    [
        ("acme/*", "acme/thing", True),
        ("acme/thing", "acme/other", False),
        ("ACME/Thing", "acme/thing", True),
        ("registry.terraform.io/acme/*", "acme/thing", True),
        ("terraform.acme.example/infra/*", "terraform.acme.example/infra/thing", True),
        ("terraform.acme.example/infra/*", "infra/thing", False),
        ("*/thing", "acme/thing", True),
        ("*/thing", "host.example/acme/thing", False),
        ("*", "host.example/acme/thing", True),
        ("aws", "hashicorp/aws", True),
        ("aws", "acme/aws", False),
    ],
)
def test_patterns_are_matched_part_by_part(pattern: str, text: str, allowed: bool) -> None:
    assert provider_allowed(text, AllowList(providers=(pattern,))) is allowed


def test_an_empty_list_allows_nothing() -> None:
    assert not provider_allowed("hashicorp/aws", AllowList(providers=()))


@given(st.text(alphabet="abhijkrs./-", max_size=12))
def test_no_source_with_a_host_of_its_own_is_taken_for_one_of_the_default_registry(text: str) -> None:
    if provider_allowed(text, AllowList(providers=("hashicorp/*",))):
        assert text.count("/") <= 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("aws", "hashicorp/aws"),
        ("terraform", "terraform.io/builtin/terraform"),
        ("Registry.Terraform.IO/HashiCorp/AWS", "hashicorp/aws"),
        ("a.example/b/c", "a.example/b/c"),
        ("a/b", "a/b"),
    ],
)
def test_a_source_has_one_form(text: str, address: str) -> None:
    assert source_address(text) == address


@requirement("source:judged", "bad:foreign-provider")
def test_a_foreign_provider_is_refused_with_its_place_and_what_is_allowed() -> None:
    text = 'terraform {\n  required_providers {\n    stranger = {\n      source = "someone/stranger"\n    }\n  }\n}\n'

    (finding,) = judge({"main.tf": declared(required(stranger="someone/stranger"), text)}, DEFAULT)

    assert (finding.severity, finding.summary, finding.file, finding.line) == (
        "error",
        "provider 'someone/stranger' is not allowed",
        "main.tf",
        4,
    )
    assert "hashicorp/*" in finding.detail


@requirement("source:judged", "bad:foreign-provider")
@pytest.mark.parametrize(
    "parsed",
    [
        {"resource": [{'"stranger_thing"': {'"a"': BLOCK}}]},
        {"data": [{'"stranger_thing"': {'"a"': BLOCK}}]},
        {"ephemeral": [{'"stranger_thing"': {'"a"': BLOCK}}]},
        {"action": [{'"stranger_thing"': {'"a"': BLOCK}}]},
        {"check": [{'"c"': block(data=[{'"stranger_thing"': {'"a"': BLOCK}}])}]},
        {"provider": [{'"stranger"': BLOCK}]},
        {"resource": [{'"aws_thing"': {'"a"': block(provider="${stranger.west}")}}]},
        {"resource": [{'"aws_thing"': {'"a"': block(provider="stranger")}}]},
        {"import": [block(to="${a.b}", provider="${stranger.x}")]},
        {"resource": {"stranger_thing": {"a": {}}}},
        {"resource": [{"stranger_thing": [{"a": [{}]}]}]},
    ],
)
def test_a_provider_is_found_wherever_it_is_used(parsed: dict[str, Any]) -> None:
    # By the name of its own the namespace is hashicorp, so what it stands for decides.
    assert judged(parsed) == []
    assert "provider 'stranger' is not allowed" in judged(parsed, allow=AllowList(providers=("hashicorp/aws",)))
    assert judged({**required(stranger="someone/stranger"), **parsed}) == ["provider 'someone/stranger' is not allowed"]


@requirement("source:judged", "bad:foreign-provider")
@pytest.mark.parametrize("good_first", [False, True])
def test_a_source_that_another_file_overrides_is_judged_all_the_same(good_first: bool) -> None:
    # Which file wins depends on the engine's rules for override files; a foreign one must not hide behind an allowed one.
    files = [required(p="hashicorp/aws"), required(p="someone/stranger")]

    assert judged(*(files if good_first else files[::-1])) == ["provider 'someone/stranger' is not allowed"]


@requirement("source:judged", "bad:foreign-provider")
@pytest.mark.parametrize("good_first", [False, True])
def test_of_two_sources_for_one_name_in_one_file_both_are_judged(good_first: bool) -> None:
    both = [{"p": {"source": "hashicorp/aws"}}, {"p": {"source": "someone/stranger"}}]

    parsed = {"terraform": {"required_providers": both if good_first else both[::-1]}}

    assert judged(parsed) == ["provider 'someone/stranger' is not allowed"]


def test_a_name_that_another_file_of_the_folder_explains_is_that_provider() -> None:
    files = {
        "versions.tf": declared(required(acme="acme/thing")),
        "main.tf": declared({"resource": [{'"acme_x"': {'"a"': BLOCK}}]}),
        "modules/m/main.tf": declared({"resource": [{'"acme_x"': {'"a"': BLOCK}}]}),
    }

    allow = AllowList(providers=("acme/*",))
    assert [(f.file, f.summary) for f in judge(files, allow)] == [("modules/m/main.tf", "provider 'acme' is not allowed")]


def test_a_provider_is_named_once_for_each_file() -> None:
    twice = {"resource": [{'"stranger_a"': {'"a"': BLOCK}}, {'"stranger_b"': {'"a"': BLOCK}}]}

    assert judged({**required(stranger="someone/stranger"), **twice}) == ["provider 'someone/stranger' is not allowed"]


def test_a_required_provider_without_a_source_is_that_of_its_name() -> None:
    assert judged({"terraform": [block(required_providers=[block(aws={"version": '"~> 5"'}, random='"~> 3"')])]}) == []


# Modules.


@requirement("source:judged")
@pytest.mark.parametrize(
    ("text", "folder", "allowed"),
    [
        ("./modules/inner", "", True),
        ("../inner", "modules/outer", True),
        ("./..foo", "", True),
        ("../inner", "", False),
        ("./../inner", "", False),
        ("./modules/../../inner", "", False),
        ("../../inner", "modules/outer", True),
        ("../../../inner", "modules/outer", False),
        ("..", "", False),
        ("terraform-aws-modules/vpc/aws", "", False),
        ("git::https://github.com/a/b", "", False),
        ("https://example.com/a.zip", "", False),
        ("/etc/module", "", False),
        ("~/module", "", False),
        ("./${var.x}", "", False),
        ("${path.module}/x", "", False),
        ("", "", False),
        ("<<EOT\n./x\nEOT", "", False),
    ],
)
def test_modules_are_those_below_the_stacks_folder(text: str, folder: str, allowed: bool) -> None:
    path = f"{folder}/main.tf" if folder else "main.tf"
    findings = judge({path: declared({"module": [{'"m"': block(source=f'"{text}"')}]})}, DEFAULT)

    assert [f.summary for f in findings] == ([] if allowed else [f"module source {text!r} is not allowed"])


@pytest.mark.parametrize("text", ["/etc/module", "~/module"])
def test_no_pattern_allows_a_module_from_elsewhere_on_the_machine(text: str) -> None:
    assert judged({"module": [{'"m"': block(source=f'"{text}"')}]}, allow=AllowList(modules=("*",)))


def test_the_operator_can_allow_modules_from_outside() -> None:
    allow = AllowList(modules=("git::https://git.acme.example/*",))

    assert judged({"module": [{'"m"': block(source='"git::https://git.acme.example/net?ref=v1"')}]}, allow=allow) == []
    assert judged({"module": [{'"m"': block(source='"git::https://git.evil.example/net"')}]}, allow=allow)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${var.x}", "literal"),
        ("", "literal"),
        ("a/b/c", "Allowed are ./*, ../*, https://h/a/*"),
        ("../x", "leads out of the stack's folder"),
        ("https://h/a/../b", "does not come from where it seems to"),
    ],
)
def test_a_refused_module_is_told_why(text: str, words: str) -> None:
    allow = DEFAULT.model_copy(update={"modules": (*DEFAULT.modules, "https://h/a/*")})
    (finding,) = judge({"main.tf": declared({"module": [{'"m"': block(source=f'"{text}"')}]})}, allow)

    assert words in finding.detail


def test_a_module_beside_the_stack_is_part_of_a_repository_and_one_outside_of_it_is_refused() -> None:
    files = {
        "main.tf": declared({"module": [{'"m"': block(source='"../../modules/net"')}]}),
        "../../modules/net/main.tf": declared({"module": [{'"m"': block(source='"../../../other"')}]}),
    }

    (finding,) = judge(files, DEFAULT, above=2)

    assert (finding.file, finding.summary) == ("../../modules/net/main.tf", "module source '../../../other' is not allowed")
    assert "leads out of the repository" in finding.detail


def test_a_module_without_a_source_is_refused() -> None:
    assert judged({"module": [{'"m"': BLOCK}]}) == ["module source '' is not allowed"]


# Data sources, encryption and backends.


@requirement("source:judged", "bad:external-data-source")
@pytest.mark.parametrize("kind", ["external", "http"])
@pytest.mark.parametrize(
    "shape",
    [
        lambda kind: {"data": [{f'"{kind}"': {'"x"': BLOCK}}]},
        lambda kind: {"data": {kind: {"x": {}}}},
        lambda kind: {"data": [{kind: [{"x": {}}]}]},
        lambda kind: {"data": [{f'"{kind[:2]}\\u{ord(kind[2]):04x}{kind[3:]}"': {'"x"': BLOCK}}]},
        lambda kind: {"data": [{f'"{kind[:2]}\\U{ord(kind[2]):08X}{kind[3:]}"': {'"x"': BLOCK}}]},
        lambda kind: {"check": [{'"c"': block(data=[{f'"{kind}"': {'"x"': BLOCK}}])}]},
        lambda kind: {"check": {"c": {"data": {kind: {"x": {}}}}}},
    ],
)
def test_data_sources_that_reach_outside_are_refused_however_they_are_written(kind: str, shape: Any) -> None:
    assert judged(shape(kind)) == [f'data source "{kind}" is not allowed']


def test_the_operator_says_which_data_sources_are_denied() -> None:
    parsed = {"data": [{'"external"': {'"x"': BLOCK}}, {'"aws_secretsmanager_secret_version"': {'"x"': BLOCK}}]}

    assert judged(parsed, allow=AllowList(denied_data=("aws_secrets*",))) == [
        'data source "aws_secretsmanager_secret_version" is not allowed'
    ]
    assert judged({"data": [{'"aws_ami"': {'"x"': BLOCK}}]}) == []


@requirement("source:judged", "bad:external-data-source")
def test_a_key_provider_that_runs_a_command_is_refused() -> None:
    def encrypted(**inner: Any) -> dict[str, Any]:
        return {"terraform": [block(encryption=[block(**inner)])]}

    external = [{'"external"': {'"k"': block(command=['"sh"'])}}]
    assert judged(encrypted(key_provider=external)) == ['encryption by "external" is not allowed']
    assert judged(encrypted(method=external)) == ['encryption by "external" is not allowed']
    assert judged(encrypted(key_provider=[{'"pbkdf2"': {'"k"': BLOCK}}], method=[{'"aes_gcm"': {'"m"': BLOCK}}])) == []


@requirement("source:judged")
@pytest.mark.parametrize(
    ("body", "summary"),
    [
        ({"backend": [{'"gcs"': block(bucket='"b"')}]}, 'backend "gcs" keeps the state elsewhere'),
        ({"backend": [{'"http"': block(address='"http://evil"')}]}, 'backend "http" keeps the state elsewhere'),
        ({"backend": {"s3": {}}}, 'backend "s3" keeps the state elsewhere'),
        ({"cloud": [block(organization='"o"')]}, 'backend "cloud" keeps the state elsewhere'),
        ({"backend": [{'"local"': BLOCK}]}, None),
        ({}, None),
    ],
)
def test_the_state_is_kept_by_countersign(body: dict[str, Any], summary: str | None) -> None:
    assert judged({"terraform": [block(**body)]}) == ([summary] if summary else [])


def test_a_backend_may_be_declared_where_what_was_there_is_here_by_now() -> None:
    files = {"main.tf": declared({"terraform": [block(backend=[{'"gcs"': block(bucket='"b"')}])]})}

    assert judge(files, DEFAULT, backends=True) == []


# What a file declares.


def test_everything_a_file_declares_with_its_lines() -> None:
    text = """terraform {
  required_providers { acme = { source = "acme/thing" } }
  backend "s3" {}
}
provider "acme" {}
module "m" { source = "./m" }
data "acme_image" "i" {}
variable "region" {}
variable "token" { sensitive = true }
"""
    parsed = {
        "terraform": [block(required_providers=[block(acme={"source": '"acme/thing"'})], backend=[{'"s3"': BLOCK}])],
        "provider": [{'"acme"': BLOCK}],
        "module": [{'"m"': block(source='"./m"')}],
        "data": [{'"acme_image"': {'"i"': BLOCK}}],
        "variable": [{'"region"': BLOCK}, {'"token"': block(sensitive=True)}, {'"open"': block(sensitive=False)}],
        "//": "a comment of JSON",
        "__comments__": [],
    }

    assert declared(parsed, text) == Declared(
        sources={"acme": "acme/thing"},
        source_lines={"acme": 2},
        providers=(Place(name="acme", line=7), Place(name="acme", line=2)),
        modules=(Place(name="./m", line=6),),
        data=(Place(name="acme_image", line=7),),
        backends=(Place(name="s3", line=3),),
        variables=("region", "token", "open"),
        sensitive=("token",),
    )


@pytest.mark.parametrize("value", [True, "${var.x}", '"true"', "true"])
def test_a_variable_that_may_be_sensitive_is(value: object) -> None:
    assert declared({"variable": {"v": {"sensitive": value}}}).sensitive == ("v",)


@pytest.mark.parametrize(
    "parsed", [{}, {"resource": None}, {"terraform": "x"}, {"data": []}, {"module": {"m": "text"}}, {"locals": [{"a": 1}]}]
)
def test_what_declares_nothing_is_nothing_to_judge(parsed: dict[str, Any]) -> None:
    assert declared(parsed) == Declared()
    assert judged(parsed) == []


def test_comments_and_marks_of_the_parser_are_no_names() -> None:
    parsed = {"resource": [{"//": "text", "__is_block__": True, "__start_line__": {"a": {}}, "aws_x": {"//": "c", "a": {}}}]}

    assert [p.name for p in declared(parsed).providers] == ["aws"]


def test_a_name_that_only_begins_like_a_mark_of_the_parser_is_judged() -> None:
    assert [m.name for m in declared({"module": {"__m": {"source": "evil/m/x"}}}).modules] == ["evil/m/x"]


def test_the_variables_of_a_stack_are_those_of_its_root_module() -> None:
    files = {
        "variables.tf": Declared(variables=("a", "b")),
        "more.tf": Declared(variables=("c",)),
        "modules/m/variables.tf": Declared(variables=("inner",)),
    }

    assert source.variables(files) == {"a", "b", "c"}


def test_files_are_judged_in_order_and_each_finding_has_its_place() -> None:
    files = {"b.tf": Declared(data=(Place(name="http", line=3),)), "a.tf": Declared(data=(Place(name="external"),))}

    findings = judge(files, DEFAULT)

    assert [(f.file, f.line) for f in findings] == [("a.tf", None), ("b.tf", 3)]
    assert places(findings) == 'data source "external" is not allowed (a.tf); data source "http" is not allowed (b.tf line 3)'
    assert places([Finding(severity="error", summary="s")]) == "s (None)"


@pytest.mark.parametrize(
    "body",
    [
        {"host": '"x"', "exec": [{"command": '"touch"'}]},
        {"kubernetes": [{"exec": [{"command": '"touch"'}]}]},
        {"kubernetes": {"exec": {"command": '"touch"'}}},
    ],
    ids=["a block", "a block in a block", "an attribute in an attribute"],
)
def test_a_provider_that_logs_in_by_a_command_is_refused(body: dict[str, object]) -> None:
    file = declared({"provider": [{"kubernetes": body}]}, 'provider "kubernetes" {\n  exec {\n')

    (finding,) = [f for f in judge({"main.tf": file}, AllowList()) if "exec" in f.summary]

    assert (finding.severity, finding.file, finding.line) == ("error", "main.tf", 2)


def test_a_provider_with_a_token_is_not_taken_for_one_with_a_command() -> None:
    file = declared({"provider": [{"kubernetes": {"token": '"exec"'}}]}, "")

    assert judge({"main.tf": file}, AllowList()) == []


def test_reading_the_state_of_others_while_planning_is_refused() -> None:
    file = declared({"data": [{"terraform_remote_state": {"other": {"backend": '"local"'}}}]}, "")

    (finding,) = judge({"main.tf": file}, AllowList())

    assert "terraform_remote_state" in finding.summary
