#!/usr/bin/env bash
# Gets what only benchmarks compare with: proton's C library (Debian), thingsboard-gateway (PyPI) and Node-RED
# (npm), the latter two in .peers. What cannot be had is named; benchmarks leave it out or say what is missing.
set -uo pipefail
cd "$(dirname "$0")/.."
target=.peers
mkdir -p "$target"
# shellcheck source=scripts/peer-tools.sh
. scripts/peer-tools.sh
THINGSBOARD=3.8.5
NODE_RED=4.1.8
missing=0

if [ ! -e /usr/share/proton/examples/c/broker.c ]; then
  (needs no-such-command libqpid-proton11-dev libqpid-proton11-dev-examples gcc libc6-dev) || missing=1
fi

if [ ! -e "$target/thingsboard-gateway/bin/python" ]; then
  .venv/bin/python -m venv "$target/thingsboard-gateway" \
    && "$target/thingsboard-gateway/bin/python" -m pip install -q --disable-pip-version-check \
      "thingsboard-gateway==$THINGSBOARD" \
    || { rm -rf "$target/thingsboard-gateway"; missing=1; }
fi

if [ ! -e "$target/node-red/node_modules/node-red/red.js" ]; then
  needs npm npm
  mkdir -p "$target/node-red"
  npm install --prefix "$target/node-red" --silent --no-audit --no-fund "node-red@$NODE_RED" \
    || { rm -rf "$target/node-red"; missing=1; }
fi

[ "$missing" -eq 0 ] || echo "Not all peers of the benchmarks could be had." >&2
exit "$missing"
