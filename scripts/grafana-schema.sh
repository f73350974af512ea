#!/usr/bin/env bash
# Gets Grafana's own types and a TypeScript compiler, which judge the dashboards, into .peers/grafana: npm, as locked
# below tests/clients/grafana. Does nothing when they are there.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.peers/grafana
mkdir -p "$target"
# shellcheck source=scripts/peer-tools.sh
. scripts/peer-tools.sh

locked=(tests/clients/grafana/package.json tests/clients/grafana/package-lock.json)
fresh schema "${locked[@]}" && exit 0
needs node nodejs
needs npm npm
rm -rf "$target/schema" && mkdir "$target/schema"
cp "${locked[@]}" tests/clients/grafana/.npmrc "$target/schema"
(cd "$target/schema" && npm ci --silent --no-audit --no-fund)
done_with schema "${locked[@]}"
