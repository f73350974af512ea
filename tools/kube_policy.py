"""Cut the roles that a cluster starts with out of what an API server shows of itself.

    kubectl get clusterroles,clusterrolebindings -o json > cluster.json
    kubectl get roles,rolebindings -A -o json > namespaced.json
    python tools/kube_policy.py cluster.json namespaced.json > gateway/kube/data/policy.json

Only objects labelled `kubernetes.io/bootstrapping=rbac-defaults` are taken, one a line, without what a server
adds. Aggregated roles keep their rule alone: what it gathers is computed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LABEL, VALUE = "kubernetes.io/bootstrapping", "rbac-defaults"
PARTS = ("aggregationRule", "rules", "roleRef", "subjects")


def main() -> None:
    items = [item for path in sys.argv[1:] for item in json.loads(Path(path).read_text())["items"]]
    chosen = [_cut(item) for item in items if _is_default(item)]
    chosen.sort(key=lambda item: (item["kind"], item.get("namespace", ""), item["name"]))
    lines = ",\n".join(json.dumps(item, separators=(",", ":"), sort_keys=True) for item in chosen)
    sys.stdout.write(f"[\n{lines}\n]\n")


def _is_default(item: dict[str, Any]) -> bool:
    return bool(item["metadata"].get("labels", {}).get(LABEL) == VALUE)


def _cut(item: dict[str, Any]) -> dict[str, Any]:
    metadata = item["metadata"]
    cut = {"kind": item["kind"], "name": metadata["name"]}
    if "namespace" in metadata:
        cut["namespace"] = metadata["namespace"]
    labels = {key: value for key, value in metadata.get("labels", {}).items() if key != LABEL}
    if labels:
        cut["labels"] = labels
    for part in PARTS:
        if item.get(part) and not (part == "rules" and "aggregationRule" in item):
            cut[part] = item[part]
    return cut


if __name__ == "__main__":
    main()
