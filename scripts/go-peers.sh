#!/usr/bin/env bash
# Builds the peers written in Go, an edge and a cloud among them, into .peers/go/bin. Does nothing when they are there.
# Each go.mod below tests/clients/go is built by itself: one that wants a newer Go than there is stops no other.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.peers/go
mkdir -p "$target"
# shellcheck source=scripts/peer-tools.sh
. scripts/peer-tools.sh

mapfile -t sources < <(find tests/clients/go -name '*.go' -o -name go.mod -o -name go.sum | sort)
fresh bin "${sources[@]}" && exit 0
needs go golang-go
rm -rf "$target/bin" && mkdir "$target/bin"
bin=$PWD/$target/bin
failed=
while read -r module; do
  (cd "$(dirname "$module")" && GOFLAGS="-mod=readonly" GOTOOLCHAIN=local go build -trimpath -o "$bin/" ./...) || failed+=" $module"
done < <(find tests/clients/go -name go.mod | sort)
if [ -n "$failed" ]; then
  echo "Not built:$failed" >&2
  exit 1
fi
done_with bin "${sources[@]}"
