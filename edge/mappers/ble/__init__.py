"""Bluetooth LE: sensors that are read or listened to over GATT, and those that only advertise."""
