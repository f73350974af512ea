"""Makes the dashboards: values in `boards`, Grafana's JSON by `render`; run `python -m dashboards.source`."""
