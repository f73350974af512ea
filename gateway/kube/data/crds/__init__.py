"""Custom resource definitions that every start installs."""
