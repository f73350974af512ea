"""What `kubectl get` prints of the built-in kinds: columns and cells, a file for each group."""
