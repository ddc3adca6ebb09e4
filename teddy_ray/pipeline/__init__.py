"""The pipeline: stages over executors, the driver that names them in order, and what they tell the outside while they run."""
