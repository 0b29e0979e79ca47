#!/usr/bin/env bash
# Build the real servers that tests need from pinned Go modules: each folder below tools/ that has a go.mod becomes a binary
# in the cache, under a key of its sources, so that a machine builds it once. Today no level needs one.
set -euo pipefail
cd "$(dirname "$0")"
cache=${1:?the cache folder}/tools
mkdir -p "$cache"
shopt -s nullglob
modules=(*/go.mod)
if [ ${#modules[@]} -eq 0 ]; then
  echo "No tool to build: nothing below tools/ is a Go module, and no test level needs one yet. They would be kept in $cache."
  exit 0
fi
command -v go >/dev/null || { echo "Go is needed to build ${modules[*]%/go.mod}. On Debian and Ubuntu: apt-get install golang" >&2; exit 1; }
for module in "${modules[@]}"; do
  name=${module%/go.mod}
  key=$(cd "$name" && { go version; find . -type f | LC_ALL=C sort | xargs sha256sum; } | sha256sum | cut -c1-16)
  if [ ! -x "$cache/$name-$key/$name" ]; then
    echo "building $name"
    made=$(mktemp -d "$cache/.$name.XXXXXX")
    (cd "$name" && go build -trimpath -mod=readonly -o "$made/$name" .)
    mv -T "$made" "$cache/$name-$key" 2>/dev/null || rm -rf "$made"  # somebody else was faster
  fi
  ln -sfn "$name-$key" "$cache/$name"
done
