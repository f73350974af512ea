"""The network of a node's Pods: CNI configuration, cluster DNS, addresses of Services."""
