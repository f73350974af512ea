"""A Bluetooth world without Bluetooth: an `org.bluez` of our own before Bumble's software controllers."""
