"""Offline work before a run: nothing here is needed while training."""
