"""The embedded Kubernetes API, and what runs on edge nodes."""

from __future__ import annotations

from typing import Final

from dashboards.source import variables
from dashboards.source.panels import Board, Link, Panel, Row, Steps, lines, number, table
from dashboards.source.promql import EDGE, GATEWAY, NAMESPACE

PODS: Final = EDGE.of(NAMESPACE)
CONTAINER: Final = 'container!=""'
FIGURES: Final = (
    "containers at the edge whose figures are scraped through the API (docs/edge-metrics.md)"
)
NETWORK: Final = "Services at the edge (docs/edge-networking.md)"
PER_POD: Final = "namespace, pod"
CORES: Final = PODS.at("container_cpu_usage_seconds_total", CONTAINER)

NOW: Final[tuple[Panel, ...]] = (
    number(
        "Nodes",
        "short",
        "Node objects at the embedded API.",
        (GATEWAY.now("twinspan_kube_objects", "", 'resource="nodes"'), "nodes"),
    ),
    number(
        "Pods wanted",
        "short",
        "Pod objects at the embedded API.",
        (GATEWAY.now("twinspan_kube_objects", "", 'resource="pods"'), "pods"),
    ),
    number(
        "Devices",
        "short",
        "Device objects at the embedded API.",
        (
            GATEWAY.now("twinspan_kube_objects", "", 'resource="devices.devices.kubeedge.io"'),
            "devices",
        ),
    ),
    number(
        "Watches",
        "short",
        "That clients of the embedded API hold.",
        (GATEWAY.now("twinspan_kube_watchers"), "watches"),
    ),
    number(
        "Audit events lost",
        "short",
        "Since start: too many waited, or the file could not be written.",
        (GATEWAY.now("twinspan_kube_audit_dropped_total"), "lost"),
        steps=Steps(None, 1),
    ),
    number(
        "Containers started anew",
        "short",
        "Over the dashboard's time: containers beyond the first of each name.",
        (
            f"sum(count by (node, namespace, pod, container) (count_over_time("
            f"{PODS.at('container_start_time_seconds', CONTAINER)}[$__range])) - 1)",
            "restarts",
        ),
        steps=Steps(1, 5),
        needs=FIGURES,
    ),
)
API: Final[tuple[Panel, ...]] = (
    lines(
        "Objects by resource",
        "short",
        "The ten most numerous.",
        (f"topk(10, {GATEWAY.now('twinspan_kube_objects', 'resource')})", "{{resource}}"),
        size=(12, 8),
    ),
    lines(
        "Requests by verb and status",
        "cps",
        "As a kube-apiserver counts them; 5xx are the server's fault.",
        (GATEWAY.rate("apiserver_request_total", "verb, code"), "{{verb}} {{code}}"),
        size=(12, 8),
    ),
    lines(
        "Time to answer, p99",
        "s",
        "Without watches, which count when they end.",
        (
            GATEWAY.quantile(
                0.99, "apiserver_request_duration_seconds", "verb", 'verb!~"WATCH|CONNECT"'
            ),
            "{{verb}}",
        ),
        size=(12, 8),
        steps=Steps(1.0, 5.0),
    ),
    lines(
        "Requests by resource",
        "cps",
        "The ten busiest.",
        (f"topk(10, {GATEWAY.rate('apiserver_request_total', 'resource')})", "{{resource}}"),
        size=(12, 8),
    ),
    lines(
        "In work, and open watches and streams",
        "short",
        "Many watches are normal; many requests in work mean that the store is slow.",
        (
            GATEWAY.now("apiserver_current_inflight_requests", "request_kind"),
            "in work {{request_kind}}",
        ),
        (GATEWAY.now("apiserver_longrunning_requests", "verb"), "open {{verb}}"),
        size=(12, 8),
    ),
    lines(
        "Group commit of the API's store, p99",
        "s",
        "How long writes wait for the disk.",
        (
            GATEWAY.quantile(
                0.99, "twinspan_store_commit_duration_seconds", "store", 'store="kube"'
            ),
            "{{store}}",
        ),
        size=(12, 8),
        steps=Steps(0.25, 1.0),
    ),
)
PODS_ROW: Final[tuple[Panel, ...]] = (
    table(
        "Pods",
        "What each Pod at the edge uses.",
        (
            f"sum by (node, {PER_POD}) (rate({CORES}[$__rate_interval]))",
            "",
        ),
        (PODS.now("container_memory_working_set_bytes", f"node, {PER_POD}", CONTAINER), ""),
        (PODS.now("container_spec_memory_limit_bytes", f"node, {PER_POD}", CONTAINER), ""),
        (PODS.now("container_processes", f"node, {PER_POD}", CONTAINER), ""),
        columns={
            "node": "Node",
            "namespace": "Namespace",
            "pod": "Pod",
            "Value #A": "Cores",
            "Value #B": "Memory",
            "Value #C": "Memory limit",
            "Value #D": "Processes",
        },
        units={"Memory": "bytes", "Memory limit": "bytes"},
        size=(24, 8),
        links=(Link("This node", "twinspan-node", "var-node=${__data.fields.Node}"),),
        needs=FIGURES,
    ),
    lines(
        "Cores by Pod",
        "short",
        "Of the node's processors.",
        (
            f"sum by ({PER_POD}) (rate({CORES}[$__rate_interval]))",
            "{{namespace}}/{{pod}}",
        ),
        needs=FIGURES,
    ),
    lines(
        "Memory by Pod",
        "bytes",
        "Working set: what counts against the limit.",
        (
            PODS.now("container_memory_working_set_bytes", PER_POD, CONTAINER),
            "{{namespace}}/{{pod}}",
        ),
        needs=FIGURES,
    ),
    lines(
        "Network by Pod",
        "Bps",
        "Received and sent.",
        (
            PODS.rate("container_network_receive_bytes_total", PER_POD, 'pod!=""'),
            "received {{namespace}}/{{pod}}",
        ),
        (
            PODS.rate("container_network_transmit_bytes_total", PER_POD, 'pod!=""'),
            "sent {{namespace}}/{{pod}}",
        ),
        needs=FIGURES,
    ),
    lines(
        "Disk by container",
        "bytes",
        "What containers wrote into their own file systems.",
        (
            PODS.now("container_fs_usage_bytes", f"{PER_POD}, container"),
            "{{namespace}}/{{pod}} {{container}}",
        ),
        needs=FIGURES,
    ),
    lines(
        "Probes that failed",
        "cps",
        "By kind of probe and Pod.",
        (
            PODS.rate("prober_probe_total", f"probe_type, {PER_POD}", 'result!="successful"'),
            "{{probe_type}} {{namespace}}/{{pod}}",
        ),
        quiet="every probe succeeds",
    ),
    lines(
        "Killed for want of memory",
        "short",
        "Over the dashboard's time.",
        (
            PODS.gain("container_oom_events_total", f"{PER_POD}, container"),
            "{{namespace}}/{{pod}} {{container}}",
        ),
        steps=Steps(None, 1),
        needs=FIGURES,
    ),
)
EDGED: Final[tuple[Panel, ...]] = (
    lines(
        "Statuses of Pods sent",
        "cps",
        "By what the API did with them.",
        (EDGE.rate("twinspan_edge_pod_statuses_total", "outcome"), "{{outcome}}"),
        needs="containers at the edge",
    ),
    lines(
        "Events about Pods",
        "cps",
        "sent, filtered as spam, or dropped for want of room.",
        (EDGE.rate("twinspan_edge_pod_events_total", "outcome"), "{{outcome}}"),
        needs="containers at the edge",
    ),
    lines(
        "Pods evicted",
        "short",
        "Over the dashboard's time, by the shortage.",
        (EDGE.gain("twinspan_edge_evictions_total", "node, signal"), "{{node}} {{signal}}"),
        steps=Steps(None, 1),
        quiet="no node is short of anything",
    ),
)
SERVICES: Final[tuple[Panel, ...]] = (
    lines(
        "Ports of Services",
        "short",
        "That nodes listen on.",
        (EDGE.now("twinspan_edge_service_ports", "node"), "{{node}}"),
    ),
    lines(
        "Connections through Services",
        "cps",
        "By protocol and outcome.",
        (
            EDGE.rate("twinspan_edge_service_connections_total", "protocol, outcome"),
            "{{protocol}} {{outcome}}",
        ),
        needs=NETWORK,
    ),
    lines(
        "Questions to the edge's DNS",
        "cps",
        "By who answered and outcome.",
        (EDGE.rate("twinspan_edge_dns_queries_total", "origin, outcome"), "{{origin}} {{outcome}}"),
        needs=NETWORK,
    ),
)

BOARD: Final = Board(
    "kubernetes",
    "Twinspan / Kubernetes and workloads",
    "The embedded Kubernetes API, and Pods on edge nodes.",
    (variables.INSTANCE, variables.NODE, variables.NAMESPACE),
    (
        Row("Now", NOW),
        Row("API", API),
        Row("Pods", PODS_ROW),
        Row("edged", EDGED),
        Row("Services and DNS", SERVICES),
    ),
)
