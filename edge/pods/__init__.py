"""edged: the Pods of this node, run by a container runtime through CRI."""
