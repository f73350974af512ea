"""The typed settings tree: one file per branch, read by `loading`, shown by `schema`."""

from gateway.config.loading import default_data_dir, load
from gateway.config.tree import Settings

__all__ = ["Settings", "default_data_dir", "load"]
