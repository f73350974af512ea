#!/usr/bin/env bash
# Gets the AMQP 1.0 clients that tests talk to the service with into .peers/amqp: rhea (npm), as locked below
# tests/clients/amqp. Does nothing when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.peers/amqp
mkdir -p "$target"
# shellcheck source=scripts/peer-tools.sh
. scripts/peer-tools.sh

locked=(tests/clients/amqp/package.json tests/clients/amqp/package-lock.json)
fresh rhea "${locked[@]}" && exit 0
needs node nodejs
needs npm npm
rm -rf "$target/rhea" && mkdir "$target/rhea"
cp "${locked[@]}" tests/clients/amqp/.npmrc "$target/rhea"
(cd "$target/rhea" && npm ci --silent --no-audit --no-fund)
done_with rhea "${locked[@]}"
