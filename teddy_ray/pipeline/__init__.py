"""The pipeline: stages over executors, the driver that names them in order, and what they say while they run."""
