"""How bad each change is, by the table of reference 2.2."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.plan import ChangeClass
from countersign.core.terraform.classes import action_of, classes_of, is_rights, is_stateful, unknown_rights
from countersign.core.terraform.document import changes
from tests.requirements import requirement
from tests.unit.core.terraform.plans import one, recorded

BUCKET = "google_storage_bucket"


def classes(*args: Any, **more: Any) -> list[str]:
    return [str(c) for c in classes_of(one(*args, **more))]


@requirement("plan:classes")
@pytest.mark.parametrize(
    ("actions", "action", "plain", "holding_data"),
    [
        ("no-op", "no-op", "none", "none"),
        ("read", "read", "none", "none"),
        ("create", "create", "create", "create"),
        ("update", "update", "update", "update"),
        ("delete,create", "replace", "replace", "stateful_replace"),
        ("create,delete", "replace", "replace", "stateful_replace"),
        ("delete", "delete", "delete", "stateful_delete"),
        ("forget", "forget", "forget", "forget"),
        ("create,forget", "forget", "forget", "forget"),
        ("forget,create", "forget", "forget", "forget"),
    ],
)
def test_each_action_has_its_word_and_its_class(actions: str, action: str, plain: str, holding_data: str) -> None:
    assert action_of(one(actions)) == action
    assert classes(actions) == [plain]
    assert classes(actions, type=BUCKET) == [holding_data]


@requirement("plan:classes")
@pytest.mark.parametrize("actions", ["", "destroy", "create,update", "delete,delete", "delete,update", "no-op,create", "CREATE"])
def test_what_has_no_name_is_unknown(actions: str) -> None:
    assert action_of(one(actions)) == "unknown"
    assert classes(actions) == classes(actions, type=BUCKET) == ["unknown"]


@requirement("plan:classes")
@given(st.lists(st.sampled_from(["no-op", "create", "read", "update", "delete", "forget", "new"]), max_size=3))
def test_whatever_deletes_is_at_least_a_replacement(actions: list[str]) -> None:
    found = classes_of(one(",".join(actions)))

    assert found[-1].destroys is ("delete" in actions) or found == (ChangeClass.UNKNOWN,)


@pytest.mark.parametrize(
    ("actions", "more", "action", "expected"),
    [
        ("no-op", {"importing": {"id": "x"}}, "import", ["import"]),
        ("no-op", {"previous_address": "thing.b"}, "move", ["move"]),
        ("no-op", {"previous_address": "thing.a"}, "no-op", ["none"]),
        ("no-op", {"importing": {"id": "x"}, "previous_address": "thing.b"}, "import", ["import", "move"]),
        ("update", {"importing": {"id": "x"}}, "update", ["update", "import"]),
        ("update", {"previous_address": "thing.b"}, "update", ["update", "move"]),
        ("delete,create", {"previous_address": "thing.b"}, "replace", ["move", "replace"]),
        ("delete", {"deposed": "00aa"}, "delete", ["delete"]),
        ("no-op", {"importing": {}}, "import", ["import"]),
    ],
)
@requirement("plan:classes")
def test_import_and_move_combine_with_any_other(actions: str, more: dict[str, Any], action: str, expected: list[str]) -> None:
    assert action_of(one(actions, **more)) == action
    assert classes(actions, **more) == expected


@requirement("plan:classes")
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["tags"], "labels"),
        (["tags", "tags_all"], "labels"),
        (["labels", "effective_labels", "terraform_labels"], "labels"),
        (["annotations", "effective_annotations"], "labels"),
        (
            ["tags", "tags_all", "labels", "effective_labels", "terraform_labels", "annotations", "effective_annotations"],
            "labels",
        ),
        (["tags", "size"], "update"),
        (["tag"], "update"),
        ([], "update"),
    ],
)
def test_an_update_of_labels_and_nothing_else_is_one_of_labels(changed: list[str], expected: str) -> None:
    names = ["tags", "tags_all", "labels", "effective_labels", "terraform_labels", "annotations", "effective_annotations", "size", "tag"]
    before = {name: {"a": "1"} for name in names}

    assert classes("update", before=before, after={**before, **{name: {"a": "2"} for name in changed}}) == [expected]


@requirement("plan:classes")
@pytest.mark.parametrize(
    ("type_", "unknown", "expected"),
    [
        ("google_project_iam_binding", {"members": True}, ["update", "create"]),
        ("google_project_iam_binding", {"members": [False, True]}, ["update", "create"]),
        ("google_project_iam_binding", {"etag": True}, ["update"]),
        (BUCKET, {"name": True}, ["update", "create"]),
        ("thing", {"members": True}, ["update"]),
    ],
)
def test_what_is_settled_at_apply_on_rights_and_on_data_raises_the_class(type_: str, unknown: Any, expected: list[str]) -> None:
    before = {"members": ["a"], "etag": "1", "name": "n"}
    known = {key: value for key, value in before.items() if key not in unknown}

    assert classes("update", type=type_, before=before, after=known, unknown=unknown) == expected


def test_the_attributes_that_grant_something_later_are_named() -> None:
    change = one("create", type="aws_iam_policy", after={"name": "n"}, unknown={"id": True, "policy": True, "arn": True})

    assert unknown_rights(change) == ("policy",)
    assert unknown_rights(one("create", unknown={"policy": True})) == ()
    assert unknown_rights(one("create", type="aws_iam_policy", after={"policy": "{}"}, unknown={"id": True})) == ()


@pytest.mark.parametrize(
    "type_",
    [
        "aws_db_instance", "aws_rds_cluster", "aws_dynamodb_table", "google_sql_database_instance", "google_spanner_instance",
        "google_bigtable_instance", "google_bigquery_dataset", "google_firestore_database", "mongodbatlas_cluster", "google_redis_instance",
        "aws_elasticache_cluster", "aws_opensearch_domain", "azurerm_cosmosdb_account", "google_alloydb_instance", "aws_docdb_cluster",
        "aws_redshift_serverless_namespace", "aws_s3_bucket", "google_storage_bucket", "google_compute_disk", "aws_ebs_volume",
        "aws_efs_file_system", "google_filestore_instance", "azurerm_storage_account", "aws_kms_key", "google_kms_crypto_key",
        "google_secret_manager_secret", "aws_secretsmanager_secret", "azurerm_key_vault", "google_container_cluster", "aws_eks_cluster",
        "google_project", "aws_organizations_organization", "azurerm_resource_group", "google_dns_managed_zone", "aws_route53_zone",
        "cloudflare_zone", "google_artifact_registry_repository", "aws_ecr_repository", "github_repository", "google_pubsub_topic",
        "aws_sqs_queue", "aws_kinesis_stream", "confluent_kafka_topic", "kubernetes_namespace", "kubernetes_persistent_volume_claim",
        "aws_backup_vault",
    ],
)  # fmt: skip
def test_what_holds_data_or_a_name_others_depend_on(type_: str) -> None:
    assert is_stateful(type_)


@pytest.mark.parametrize(
    "type_",
    [
        "terraform_data", "terraform_remote_state", "null_resource", "google_compute_instance", "aws_instance", "google_compute_network",
        "aws_vpc", "kubernetes_deployment", "helm_release", "google_project_service", "time_sleep", "local_file",
    ],
)  # fmt: skip
def test_what_can_be_made_again(type_: str) -> None:
    assert not is_stateful(type_)


def test_the_operators_own_list_replaces_ours() -> None:
    assert is_stateful("acme_ledger", ["acme_*"])
    assert not is_stateful(BUCKET, ["acme_*"])
    assert classes_of(one("delete", type="acme_ledger"), ["acme_*"]) == (ChangeClass.STATEFUL_DELETE,)


@pytest.mark.parametrize(
    ("type_", "rights"),
    [
        ("google_project_iam_member", True),
        ("google_storage_bucket_iam_binding", True),
        ("aws_iam_role", True),
        ("aws_iam_role_policy_attachment", True),
        ("azurerm_role_assignment", True),
        ("kubernetes_cluster_role_binding", True),
        ("aws_lambda_permission", True),
        ("postgresql_grant", True),
        ("github_team_membership", True),
        ("aws_instance", False),
        ("google_compute_network", False),
    ],
)
def test_what_says_who_may_do_what(type_: str, rights: bool) -> None:
    assert is_rights(type_) is rights


@requirement("plan:classes")
def test_a_real_plan_of_every_kind() -> None:
    found = {c.address: ([str(k) for k in classes_of(c)], action_of(c)) for c in changes(recorded("kinds"))}

    assert found == {
        "data.terraform_remote_state.late": (["none"], "read"),
        "terraform_data.changed": (["update"], "update"),
        "terraform_data.fresh": (["create"], "create"),
        "terraform_data.gone": (["delete"], "delete"),
        "terraform_data.imported": (["import"], "import"),
        "terraform_data.left_behind": (["forget"], "forget"),
        "terraform_data.new_name": (["move"], "move"),
        "terraform_data.renamed": (["update", "move"], "update"),
        "terraform_data.retyped": (["update"], "update"),
    }
