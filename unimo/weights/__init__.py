"""Weights from files: published archives, Hugging Face checkpoints, our own folders. Nothing in a file is executed."""
