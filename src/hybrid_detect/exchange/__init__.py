"""What crosses a boundary: the wire format, sealing, and the keys that requests are sealed to."""
