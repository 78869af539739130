"""Generated sequences of moving digits, kept on disk as a TFDS data set."""
