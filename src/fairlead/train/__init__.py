"""Training: condition dropout, objectives, the loop, EMA, checkpoints."""
