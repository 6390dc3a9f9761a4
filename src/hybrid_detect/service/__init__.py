"""The hybrid service: observe, decide, detect, fall back, feed back."""
