"""Compression: a frame becomes a picture, a JPEG inside a byte budget."""
