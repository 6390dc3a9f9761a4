"""Code that a frozen app runs before its own."""
