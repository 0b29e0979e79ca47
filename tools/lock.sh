#!/usr/bin/env bash
# Renew the hash-pinned locks from pyproject.toml, keeping every pin that still fits: `make lock`, or `make lock UPGRADE=--upgrade`.
# They name no index: whoever installs uses their own. They hold for every Python from 3.11 on, on Linux and macOS.
# Needs uv; takes the one on PATH, else installs it beside the checkout's other tools, in the cache given as CHECKOUT_CACHE.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v uv >/dev/null; then
  own=${CHECKOUT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/countersign}/uv
  [ -x "$own/bin/uv" ] || { "${PYTHON:-python3}" -m venv "$own" && "$own/bin/pip" install -q uv==0.13.9; }
  PATH=$own/bin:$PATH
fi
compile() { uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }
compile --group build -o requirements/build.txt "$@"
compile --group go -o requirements/go.txt "$@"
compile --group build -c requirements/build.txt -o requirements/base.txt pyproject.toml "$@"
compile --group build --extra embedded -c requirements/base.txt -o requirements/embedded.txt pyproject.toml "$@"
compile --extra embedded --group dev -c requirements/base.txt -o requirements/dev.txt pyproject.toml "$@"
