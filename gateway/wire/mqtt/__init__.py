"""MQTT 3.1.1 and 5.0 without I/O: packet codec, topic filters, server and client sessions."""
