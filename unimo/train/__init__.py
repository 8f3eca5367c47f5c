"""Training: the loop, its settings, optimizers, early stopping, run folders."""
