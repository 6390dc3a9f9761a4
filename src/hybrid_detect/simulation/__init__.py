"""Policies over recorded networks, compared with an oracle; what `bench policy` runs."""
