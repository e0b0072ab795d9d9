"""Training of step models: objectives, global batches, the Lightning module and its checkpoints."""
