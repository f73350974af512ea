"""Grafana dashboards, made by `python -m dashboards.source`, and rules for Prometheus."""
