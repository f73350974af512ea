"""The choices at the top of dashboards."""

from __future__ import annotations

from dashboards.source.panels import Variable

INSTANCE = Variable(
    "instance", "Instance", "label_values(twinspan_event_loop_lag_seconds_count, instance)"
)
TENANT = Variable(
    "tenant", "Tenant", "label_values(hono_telemetry_processing_duration_seconds_count, tenant)"
)
ADAPTER = Variable(
    "adapter",
    "Adapter",
    "label_values(hono_telemetry_processing_duration_seconds_count, component_name)",
)
NODES = 'label_values({__name__=~"twinspan_cloudhub_node_connected|twinspan_edge_link_up"}, node)'
"""From CloudCore, which knows nodes that are away too, and from EdgeCores whose scrapes say `node`."""
NODE = Variable("node", "Node", NODES)
ONE_NODE = Variable("node", "Node", NODES, is_multi=False)
DRIVER = Variable(
    "driver", "Protocol", 'label_values(twinspan_edge_mapper_reads_total{node=~"$node"}, driver)'
)
NAMESPACE = Variable(
    "namespace",
    "Namespace",
    'label_values(container_memory_working_set_bytes{node=~"$node"}, namespace)',
)
