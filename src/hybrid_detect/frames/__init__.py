"""What goes in: frames and where they come from, compression, privacy, drawing."""
