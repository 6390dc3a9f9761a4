"""What crosses a boundary: the wire format and the way from frame to bytes and back."""
