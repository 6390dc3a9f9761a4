"""An image or the planes of a camera become a `Frame`."""
