"""The other end: a reference server that looks at the pictures clients send."""
