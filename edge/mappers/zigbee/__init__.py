"""Zigbee devices behind a coordinator, by zigpy."""
