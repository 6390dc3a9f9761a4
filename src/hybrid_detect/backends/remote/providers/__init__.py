"""The protocols of detection servers, a file each. Pure: no I/O."""
