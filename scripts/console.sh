#!/usr/bin/env bash
# Builds the web console's files in gateway/console/web from console/. With --check it compares instead: it fails when
# what is committed is not what the sources give. With --packages it only gets the packages, which tests need as well.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.peers/console
mkdir -p "$target"

# shellcheck source=scripts/peer-tools.sh
. scripts/peer-tools.sh

locked=(console/package.json console/package-lock.json)
if ! fresh packages "${locked[@]}" || [ ! -d console/node_modules ]; then
  needs node nodejs
  needs npm npm
  (cd console && npm ci --silent --no-audit --no-fund)
  rm -rf "$target/packages" && mkdir "$target/packages"
  done_with packages "${locked[@]}"
fi
[ "${1:-}" != --packages ] || exit 0

(cd console && node_modules/.bin/tsc --noEmit)
built=gateway/console/web
if [ "${1:-}" != --check ]; then
  node console/build.mjs "$PWD/$built"
  exit 0
fi

fresh_build=$(mktemp -d)
trap 'rm -rf "$fresh_build"' EXIT
node console/build.mjs "$fresh_build/web"
diff -rq -x '*.gz' -x '*.br' "$fresh_build/web" "$built" || {
  echo "gateway/console/web is not what console/ gives: run scripts/console.sh and commit what it writes." >&2
  exit 1
}
# Compressed bytes differ between releases of Node; what they hold may not.
while IFS= read -r file; do
  [ ! -e "$file.gz" ] || gzip -dc "$file.gz" | cmp - "$file"
  [ ! -e "$file.br" ] || node -e 'process.stdout.write(require("zlib").brotliDecompressSync(require("fs").readFileSync(process.argv[1])))' "$file.br" | cmp - "$file"
done < <(find "$built" -type f ! -name '*.gz' ! -name '*.br')
