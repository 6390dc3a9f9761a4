"""Hooks that hand events to other systems, a file and an extra each."""
