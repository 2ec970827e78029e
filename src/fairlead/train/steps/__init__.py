"""What a training step reads, and what came of it."""
