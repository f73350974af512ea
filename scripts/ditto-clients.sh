#!/usr/bin/env bash
# Gets the Ditto clients that tests drive the service with, into .peers/ditto-clients: JavaScript (npm), Java (Maven)
# and Python (pip), each as locked below tests/clients. Does nothing for those that are there already.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.peers/ditto-clients
mkdir -p "$target"

# shellcheck source=scripts/peer-tools.sh
. scripts/peer-tools.sh

locked=(tests/clients/javascript/package.json tests/clients/javascript/package-lock.json)
if ! fresh javascript "${locked[@]}"; then
  needs node nodejs
  needs npm npm
  rm -rf "$target/javascript" && mkdir "$target/javascript"
  cp "${locked[@]}" tests/clients/javascript/.npmrc "$target/javascript"
  (cd "$target/javascript" && npm ci --silent --no-audit --no-fund)
  done_with javascript "${locked[@]}"
fi

locked=(tests/clients/java/pom.xml)
if ! fresh java "${locked[@]}"; then
  needs javac default-jdk-headless
  needs mvn maven
  rm -rf "$target/java" && mkdir "$target/java"
  mvn -B -q -f "${locked[0]}" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$PWD/$target/java"
  done_with java "${locked[@]}"
fi

locked=(tests/clients/python/requirements.txt)
if ! fresh python "${locked[@]}"; then
  rm -rf "$target/python"
  .venv/bin/python -m venv "$target/python"
  "$target/python/bin/python" -m pip install -q --disable-pip-version-check -r "${locked[0]}"
  done_with python "${locked[@]}"
fi
