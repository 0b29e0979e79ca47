"""Objects as charts render them and as clusters have them."""

from typing import Any

import yaml

from countersign.core.fingerprints import Fingerprints
from countersign.core.helm.manifests import Manifest, parse

FINGERPRINTS = Fingerprints(key=b"a key of the deployment", kid="k1")

WEB = """\
---
# Source: shop/templates/web.yaml
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  template:
    spec:
      containers:
      - name: web
        image: shop/web:1
        env:
        - {name: MODE, value: fast}
        - {name: DB_PASSWORD, value: hunter2hunter2}
"""
SECRET = """\
---
# Source: shop/templates/secret.yaml
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: hunter2hunter2, username: postgres}
"""


def one(text: str, namespace: str = "shop") -> Manifest:
    (manifest,) = parse(text, namespace=namespace)
    return manifest


def of(kind: str, name: str = "it", *, api: str = "v1", annotations: dict[str, str] | None = None, **fields: Any) -> Manifest:
    metadata: dict[str, Any] = {"name": name, **({"annotations": annotations} if annotations else {})}
    return one(yaml.safe_dump({"apiVersion": api, "kind": kind, "metadata": metadata, **fields}))


def live(manifest: Manifest, **changed: Any) -> dict[str, Any]:
    """As a server has it, with what servers write into it."""
    metadata = {"uid": "u1", "resourceVersion": "283", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{}]}
    mine = dict(manifest.body["metadata"])
    return {**manifest.body, "metadata": {**mine, "namespace": manifest.key.namespace, **metadata}, "status": {"ready": 1}, **changed}
