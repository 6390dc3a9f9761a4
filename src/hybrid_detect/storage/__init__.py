"""What is kept on disk: the detection history, its audit, private files, retention."""
