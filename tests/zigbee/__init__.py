"""A Zigbee network without radio: a coordinator that speaks deCONZ's serial protocol, and its devices.

Written from the protocols' own descriptions; nothing here imports zigpy, which it is to test.
"""
