"""Which node a Pod goes to: decisions over a picture of the cluster. Source: Kubernetes, "Scheduling"."""
