"""Thin bridges to other people's frameworks and tools, each behind its own extra or entry point."""
