#!/usr/bin/env bash
# Gets the parts that Hono's protocol adapters are made of (Maven), as locked below tests/clients/hono, into
# .peers/hono-clients: tests drive the internal services with them. Does nothing where they are there already.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.peers/hono-clients
mkdir -p "$target"

# shellcheck source=scripts/peer-tools.sh
. scripts/peer-tools.sh

locked=(tests/clients/hono/pom.xml)
if ! fresh java "${locked[@]}"; then
  needs javac default-jdk-headless
  needs mvn maven
  rm -rf "$target/java" && mkdir "$target/java"
  mvn -B -q -f "${locked[0]}" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$PWD/$target/java"
  done_with java "${locked[@]}"
fi
