"""Evaluation of a pre-trained model: zero-shot tasks, their report, comparison of runs."""
