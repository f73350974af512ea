"""Ditto Protocol: the JSON envelope that WebSocket, AMQP, MQTT and connections carry.

`envelope` reads and writes the bytes, `topic` the topic path, `headers` the header types, `read` turns an
envelope into a command, message, answer, acknowledgement or search request, `write` the other way round.
"""
