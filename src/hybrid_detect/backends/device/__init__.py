"""The on-device backend: face models in a process of their own."""
