"""The accelerate loop, optimiser groups, checkpoints, evaluation."""
