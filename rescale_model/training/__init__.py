"""Components of training: steps, their guard, checkpoints, resuming, signals."""
