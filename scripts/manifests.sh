#!/usr/bin/env bash
# Writes the plain manifests of deploy/manifests from the Helm chart, for those who do not use Helm.
#
#   scripts/manifests.sh HELM [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
helm=${1:?the helm program}
out=${2:-deploy/manifests}
chart=deploy/helm/twinspan
common=(--namespace kubeedge --set crds.install=false --set credentials.existingSecret=twinspan-credentials)
{
  cat <<'TEXT'
# CloudCore and gateway, without Helm. Made from the chart in deploy/helm/twinspan.
#
#   kubectl create namespace kubeedge
#   kubectl apply --server-side -f gateway/kube/data/crds                     # or: twinspan cloud install-crds
#   kubectl -n kubeedge create secret generic twinspan-credentials --from-file=credentials.json --from-file=ditto-password
#   kubectl -n kubeedge apply -f deploy/manifests/twinspan.yaml
#
# credentials.json: {"ditto": {"ditto": "..."}, "devops": {"devops": "...", "status": "..."},
#   "registry": {"hono-client": "..."}, "northbound": {"consumer@HONO": "..."}}; ditto-password: that of user ditto.
# Put into cloudcore's settings.yaml (cloud.advertise) the name by which edge nodes reach it.
TEXT
  "$helm" template twinspan "$chart" "${common[@]}" 2>/dev/null | grep -v -e '^# Source: ' -e 'helm.sh/chart' -e 'managed-by: Helm'
} > "$out/twinspan.yaml"
