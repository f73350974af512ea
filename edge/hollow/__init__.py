"""Hollow edges: many EdgeCores in one process, to load a CloudCore with as many nodes as it may have.

What is real: enrolment, key and certificate, EdgeHub and its TLS connection, NodeAgent (Node, status, Lease),
DeviceTwin, MetaManager, the spool and its pump, all of their SQL. What is hollow: stores are in memory, the
machine is measured once for all, and there is no MQTT broker, mapper, MetaServer, tunnel or task of a node:
a made-up device answers for the mappers.
"""
