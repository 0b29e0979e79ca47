#!/usr/bin/env bash
# Renew the hash-pinned locks from pyproject.toml. They name no index: whoever installs uses their own.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }
compile --group build -o requirements/base.txt pyproject.toml "${@}"
compile --group build --extra embedded -c requirements/base.txt -o requirements/embedded.txt pyproject.toml "${@}"
compile --extra embedded --group dev -c requirements/base.txt -o requirements/dev.txt pyproject.toml "${@}"
