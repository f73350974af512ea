#!/usr/bin/env bash
# Gets the Ditto clients that tests drive the service with, into .peers/ditto-clients: JavaScript (npm), Java (Maven)
# and Python (pip), each as locked below tests/clients. Does nothing for those that are there already.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.peers/ditto-clients
mkdir -p "$target"

# needs COMMAND PACKAGE...: Debian's packages where the command is missing, whoever it came from elsewhere.
needs() {
  command -v "$1" >/dev/null 2>&1 && return
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "Tests with Ditto's clients need '$1', and this is not Debian: install it by hand." >&2
    exit 1
  fi
  local root=()
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  echo "Installing ${*:2} for the tests with Ditto's clients ..."
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${@:2}" >/dev/null
}

# fresh NAME FILE...: true when NAME was made from these very files.
fresh() { [ -e "$target/$1/.stamp-$(cat "${@:2}" | cksum | cut -d' ' -f1)" ]; }
done_with() { touch "$target/$1/.stamp-$(cat "${@:2}" | cksum | cut -d' ' -f1)"; }

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
