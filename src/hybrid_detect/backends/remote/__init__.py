"""Backends that send the picture elsewhere: cloud and streaming."""
