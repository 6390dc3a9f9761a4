"""The on-device backend: MediaPipe in a worker process of its own."""
