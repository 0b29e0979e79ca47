"""Clusters as the operator writes them, and what of a kubeconfig is used."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from countersign.adapters.kubernetes import kubeconfig
from countersign.adapters.kubernetes.kubeconfig import of_file, of_text
from countersign.adapters.settings import load
from countersign.cli.doctor import releases
from countersign.core.errors import FailedPrecondition, InvalidArgument

ONE = '[[clusters]]\nenvironment = "local/dev"\nname = "dev"\nkubeconfig = "/srv/kubeconfig"\n'


def written(**user: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "mine",
        "clusters": [
            {"name": "here", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority-data": "Q0E="}},
            {"name": "plain", "cluster": {"server": "http://10.0.0.1"}},
        ],
        "users": [{"name": "me", "user": user or {"token": "a-token-of-mine"}}],
        "contexts": [
            {"name": "mine", "context": {"cluster": "here", "user": "me", "namespace": "elsewhere"}},
            {"name": "open", "context": {"cluster": "plain", "user": "me"}},
        ],
    }


def test_an_environment_has_the_cluster_that_is_written_for_it(tmp_path: Path) -> None:
    (tmp_path / "countersign.toml").write_text(ONE)
    settings = load(tmp_path)

    found = settings.cluster("local/dev")

    assert found is not None and found.kubeconfig == Path("/srv/kubeconfig")
    assert settings.cluster("local/prod") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ONE + ONE, "two clusters have the same environment"),
        (ONE.replace("local/dev", "dev"), "write the environment as"),
        (ONE.replace('"dev"', '"Dev 1"'), "lower case letters"),
        (ONE.replace("kubeconfig = ", "kubeconfig_secret = "), "lower case letters"),
        (ONE + 'kubeconfig_secret = "other"\n', "give kubeconfig, a file, or kubeconfig_secret"),
        ('[helm]\nexecutable = "/opt/helm-4"\n', "has to be called helm"),
        ("[helm]\ntimeout_seconds = 1\n", "greater than or equal to 5"),
    ],
)
def test_what_leads_to_no_one_cluster_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "countersign.toml").write_text(text)

    with pytest.raises(InvalidArgument, match=why):
        load(tmp_path)


def test_the_doctor_looks_at_helm_and_at_each_kubeconfig_where_there_are_clusters(tmp_path: Path) -> None:
    assert releases(load(tmp_path)) == []
    helm = tmp_path / "helm"
    (tmp_path / "countersign.toml").write_text(ONE + f'[helm]\nexecutable = "{helm}"\n')
    assert [(one.what, one.grade) for one in releases(load(tmp_path))] == [("helm", "missing")]

    helm.write_text("")
    (tmp_path / "config").write_text(yaml.safe_dump(written()))
    two = '[[clusters]]\nenvironment = "local/prod"\nname = "prod"\nkubeconfig_secret = "prod-cluster"\n'
    three = f'[[clusters]]\nenvironment = "local/test"\nname = "test"\nkubeconfig = "{tmp_path / "config"}"\n'
    (tmp_path / "countersign.toml").write_text(ONE + two + three + f'[helm]\nexecutable = "{helm}"\n')
    looks = releases(load(tmp_path))

    assert [(one.what, one.grade) for one in looks] == [("helm", "ok"), ("cluster", "missing"), ("cluster", "note"), ("cluster", "ok")]
    assert "cannot be read" in looks[1].told and looks[3].told == "test of local/test: https://10.0.0.1:6443"


def test_only_the_chosen_context_is_used_and_its_namespace_is_not() -> None:
    made = of_text(yaml.safe_dump(written()), context=None)

    assert made.server == "https://10.0.0.1:6443"
    assert made.document["contexts"] == [{"name": "countersign", "context": {"cluster": "countersign", "user": "countersign"}}]
    assert made.secrets == {"a-token-of-mine"}
    assert "a-token-of-mine" not in repr(made)


def test_files_that_it_points_to_are_taken_in(tmp_path: Path) -> None:
    (tmp_path / "me.crt").write_text("certificate")
    (tmp_path / "me.key").write_text("key")
    (tmp_path / "config").write_text(yaml.safe_dump(written(**{"client-certificate": "me.crt", "client-key": "me.key"})))

    (user,) = of_file(tmp_path / "config", context="mine").document["users"]

    assert user["user"] == {
        "client-certificate-data": base64.b64encode(b"certificate").decode(),
        "client-key-data": base64.b64encode(b"key").decode(),
    }


@pytest.mark.parametrize(
    ("document", "context", "why"),
    [
        (written(exec={"command": "gcloud"}), None, "plugins are not run here"),
        (written(**{"auth-provider": {"name": "oidc"}}), None, "plugins are not run here"),
        (written(**{"client-key": "me.key"}), None, "a sealed one has to hold everything"),
        (written(), "other", "it has no context 'other'"),
        (written(), "open", "has to begin with https://"),
        ({}, None, "it has no context 'None'"),
        ([], None, "it is no kubeconfig"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(document: object, context: str | None, why: str) -> None:
    with pytest.raises(FailedPrecondition, match=why):
        of_text(yaml.safe_dump(document), context=context)


@pytest.mark.parametrize("text", ["a: [", "x" * (kubeconfig.LARGEST + 1)])
def test_what_is_no_yaml_is_refused(text: str) -> None:
    with pytest.raises(FailedPrecondition):
        of_text(text, context=None)
