#!/usr/bin/env bash
# Sets up .venv for one purpose: `run` (wheels only: no compiler, no root), `dev` (tests and checks) or
# `peers` (what tests and benchmarks compare with). Does nothing when pyproject.toml has not changed since.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:?run, dev or peers}
case "$purpose" in
  run) target='-e .[coap,workloads]' ;;
  dev) target='-e .[dev]' ;;
  peers) target='-e .[dev,peers]' ;;
  *) echo "scripts/python.sh: expected run, dev or peers, got '$purpose'" >&2; exit 2 ;;
esac

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$candidate"; return; }
  done
  echo "Python 3.11 or newer is needed and was not found (set PYTHON=/path/to/python3)." >&2
  exit 1
}

stamp=".venv/.twinspan-$purpose-$(cksum < pyproject.toml | cut -d' ' -f1)"
[ -e "$stamp" ] && exit 0
if [ ! -x .venv/bin/python ]; then
  python=$(find_python)
  echo "Setting up .venv with $("$python" --version) ..."
  if ! "$python" -m venv .venv 2>/dev/null; then
    # Debian ships venv's installer in a package of its own; pip, where it is there, can do the same.
    rm -rf .venv
    if "$python" -m pip --version >/dev/null 2>&1; then
      "$python" -m venv --without-pip .venv
      "$python" -m pip --python .venv/bin/python install -q pip
    else
      echo "This Python cannot make virtual environments: apt-get install python3-venv" >&2
      exit 1
    fi
  fi
fi
echo "Installing Twinspan for '$purpose' ..."
# shellcheck disable=SC2086
.venv/bin/python -m pip install -q --disable-pip-version-check $target
rm -f ".venv/.twinspan-$purpose-"*
touch "$stamp"
