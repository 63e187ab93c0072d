"""Parts of every training: the step, its guard, checkpoints, resuming, signals."""
