"""Types of the served kinds and their protobuf field numbers, cut by `tools/kube_types.py`."""
