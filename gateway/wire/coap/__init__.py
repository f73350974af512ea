"""CoAP messages: bytes to values and back."""
