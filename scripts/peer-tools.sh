# Sourced by the scripts that get peers for tests, after they set `target`, the folder of what they get.

# needs COMMAND PACKAGE...: Debian's packages where the command is missing, whoever it came from elsewhere.
needs() {
  command -v "$1" >/dev/null 2>&1 && return
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "Tests with ${target##*/} need '$1', and this is not Debian: install it by hand." >&2
    exit 1
  fi
  local root=()
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  echo "Installing ${*:2} for the tests with ${target##*/} ..."
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${@:2}" >/dev/null
}

# fresh NAME FILE...: true when NAME was made from these very files.
fresh() { [ -e "$target/$1/.stamp-$(cat "${@:2}" | cksum | cut -d' ' -f1)" ]; }
done_with() { touch "$target/$1/.stamp-$(cat "${@:2}" | cksum | cut -d' ' -f1)"; }
