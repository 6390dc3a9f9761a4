"""What happened: events, hooks, metrics."""
