"""Where frames come from: cameras, files, iterables; throttling, dropping, the change gate."""
