"""Every edge node at once, and CloudCore, which serves them."""

from __future__ import annotations

from typing import Final

from dashboards.source import variables
from dashboards.source.panels import Board, Link, Panel, Row, Steps, lines, number, states, table
from dashboards.source.promql import EDGE, GATEWAY

LINKED: Final = (
    f"{EDGE.at('twinspan_edge_link_up')} and on (job, instance) twinspan_edge_spool_bytes"
)
"""Only processes with an edge in them have a spool; the others would say that they are cut off."""
TO_NODE: Final = Link("This node", "twinspan-node", "var-node=${__data.fields.Node}")

NOW: Final[tuple[Panel, ...]] = (
    number(
        "Nodes linked",
        "short",
        "Edge nodes connected to CloudHub, as CloudCore counts them.",
        (GATEWAY.now("twinspan_cloudhub_connected_nodes"), "nodes"),
        size=(6, 4),
    ),
    number(
        "Nodes away",
        "short",
        "Nodes that were connected since CloudCore started and are not now.",
        (f"count({EDGE.at('twinspan_cloudhub_node_connected')} == 0)", "away"),
        steps=Steps(None, 1),
        size=(6, 4),
        quiet="every node is connected",
    ),
    number(
        "Waiting on nodes' disks",
        "bytes",
        "Uploads that the cloud has not taken.",
        (EDGE.now("twinspan_edge_spool_bytes"), "bytes"),
        size=(6, 4),
    ),
    number(
        "Lost at the edge",
        "short",
        "Uploads that are gone for good, over the dashboard's time.",
        (EDGE.gain("twinspan_edge_loss_total"), "lost"),
        steps=Steps(None, 1),
        size=(6, 4),
        quiet="nothing was lost",
    ),
)
NODES: Final[tuple[Panel, ...]] = (
    table(
        "Nodes",
        "A line for each node that CloudCore has seen since it started. Click one to see it alone. What "
        "waits, uploads and reads are the node's own figures: they are there while it is scraped.",
        (EDGE.now("twinspan_cloudhub_node_connected", "node", how="max"), ""),
        (
            f"time() - {EDGE.now('twinspan_cloudhub_node_last_seen_timestamp_seconds', 'node', how='max')}",
            "",
        ),
        (EDGE.now("twinspan_cloudhub_node_unacknowledged_objects", "node"), ""),
        (EDGE.now("twinspan_cloudhub_node_acknowledge_seconds", "node", how="max"), ""),
        (EDGE.now("twinspan_edge_spool_messages", "node"), ""),
        (EDGE.rate("twinspan_edge_spooled_total", "node"), ""),
        (EDGE.rate("twinspan_edge_mapper_reads_total", "node"), ""),
        columns={
            "node": "Node",
            "Value #A": "Linked",
            "Value #B": "Last seen",
            "Value #C": "Objects on their way",
            "Value #D": "Round trip",
            "Value #E": "Uploads waiting",
            "Value #F": "Uploads/s",
            "Value #G": "Reads/s",
        },
        units={"Last seen": "s", "Round trip": "s", "Uploads/s": "cps", "Reads/s": "cps"},
        size=(16, 10),
        links=(TO_NODE,),
    ),
    states(
        "Links of nodes",
        "Whether each node is connected, as CloudCore sees it. Frequent changes: the network flaps.",
        (EDGE.now("twinspan_cloudhub_node_connected", "node", how="max"), "{{node}}"),
        size=(8, 10),
        links=(Link("This node", "twinspan-node", "var-node=${__field.labels.node}"),),
    ),
    states(
        "Links as nodes see them",
        "The same from the other end: EdgeCores that are scraped. Where both differ, traffic passes one way.",
        (LINKED, "{{node}} {{instance}}"),
        size=(12, 8),
    ),
    lines(
        "Round trip of objects",
        "s",
        "From sending an object to the node's having stored it.",
        (EDGE.now("twinspan_cloudhub_node_acknowledge_seconds", "node", how="max"), "{{node}}"),
        size=(12, 8),
        steps=Steps(1.0, 10.0),
    ),
)
UPLOADS: Final[tuple[Panel, ...]] = (
    lines(
        "Uploads from nodes by outcome",
        "cps",
        "As CloudCore judged them.",
        (GATEWAY.rate("twinspan_edge_uploads_total", "type, outcome"), "{{type}} {{outcome}}"),
    ),
    lines(
        "Waiting by node",
        "short",
        "Uploads on the disk of each node.",
        (EDGE.now("twinspan_edge_spool_messages", "node, type"), "{{node}} {{type}}"),
    ),
    lines(
        "Reported values from nodes",
        "cps",
        "What became of values that Devices reported.",
        (GATEWAY.rate("twinspan_edge_reports_total", "outcome"), "{{outcome}}"),
    ),
)
HUB: Final[tuple[Panel, ...]] = (
    lines(
        "Nodes linked over time",
        "short",
        "CloudHub's own count, by instance of CloudCore; KubeEdge's name for it has the same value.",
        (GATEWAY.now("twinspan_cloudhub_connected_nodes", "instance"), "{{instance}}"),
    ),
    lines(
        "Messages of CloudHub",
        "cps",
        "up: from nodes, down: to nodes, by what they are about.",
        (
            GATEWAY.rate("twinspan_cloudhub_messages_total", "direction, kind"),
            "{{direction}} {{kind}}",
        ),
    ),
    lines(
        "Objects sent to nodes",
        "cps",
        "unanswered: the node acknowledged none of all transmissions.",
        (GATEWAY.rate("twinspan_cloudhub_deliveries_total", "outcome"), "{{outcome}}"),
    ),
    lines(
        "Sessions ended",
        "cps",
        "Why nodes' connections ended.",
        (GATEWAY.rate("twinspan_cloudhub_sessions_ended_total", "reason"), "{{reason}}"),
        quiet="no node's connection ended",
    ),
    lines(
        "Nodes refused",
        "cps",
        "Connections and requests for certificates that were refused, by reason.",
        (GATEWAY.rate("twinspan_cloudhub_refused_total", "reason"), "{{reason}}"),
        quiet="nobody was refused",
    ),
    lines(
        "Certificates of nodes",
        "cps",
        "Issued and revoked.",
        (GATEWAY.rate("twinspan_edge_certificates_total", "action"), "{{action}}"),
    ),
)
SERVICES: Final[tuple[Panel, ...]] = (
    lines(
        "Stream tunnels",
        "short",
        "Nodes whose tunnel for logs, exec and figures is open.",
        (GATEWAY.now("twinspan_cloud_tunnels"), "tunnels"),
    ),
    lines(
        "Logs, exec and figures through tunnels",
        "cps",
        "By kind and outcome.",
        (GATEWAY.rate("twinspan_cloud_streams_total", "kind, outcome"), "{{kind}} {{outcome}}"),
        needs="kubectl logs or exec, or figures of nodes being scraped",
    ),
    lines(
        "Requests of nodes' MetaServers",
        "cps",
        "Which CloudCore carried to the Kubernetes API.",
        (
            GATEWAY.rate("twinspan_cloud_applications_total", "verb, outcome"),
            "{{verb}} {{outcome}}",
        ),
        needs="programs at the edge that use the MetaServer",
    ),
    lines(
        "Watches kept for nodes",
        "short",
        "On the Kubernetes API, for MetaServers.",
        (GATEWAY.now("twinspan_cloud_watches"), "watches"),
    ),
    lines(
        "Deliveries of rules",
        "cps",
        "Messages that the router's rules took, by target and outcome.",
        (
            GATEWAY.rate("twinspan_cloud_router_deliveries_total", "target, outcome"),
            "{{target}} {{outcome}}",
        ),
        needs="rules",
    ),
    lines(
        "Devices that nodes say they see",
        "cps",
        "Discovered devices: taken, or refused (too many, or of no use).",
        (GATEWAY.rate("twinspan_cloud_discoveries_total", "outcome"), "{{outcome}}"),
        needs="mappers that discover devices",
    ),
    lines(
        "Jobs of nodes",
        "cps",
        "Nodes that ended an upgrade, a pre-pull or a change of settings.",
        (GATEWAY.rate("twinspan_cloud_node_tasks_total", "kind, outcome"), "{{kind}} {{outcome}}"),
        needs="node jobs",
    ),
    lines(
        "CloudCore that leads",
        "short",
        "1 at the instance that writes things from Devices. Without an election (one process) it is 0.",
        (GATEWAY.now("twinspan_cloud_leads", "instance"), "{{instance}}"),
    ),
)

BOARD: Final = Board(
    "fleet",
    "Twinspan / Edge fleet",
    "Every edge node at once, and CloudCore, which serves them.",
    (variables.INSTANCE, variables.NODE),
    (
        Row("Now", NOW),
        Row("Nodes", NODES),
        Row("Uploads", UPLOADS),
        Row("CloudHub", HUB),
        Row("Tunnels, MetaServers, rules, jobs", SERVICES),
    ),
)
