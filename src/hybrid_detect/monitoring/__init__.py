"""What happened, and what is kept of it."""
