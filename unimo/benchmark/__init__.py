"""The benchmark suite: one model fine-tuned for every task of a plan, beside random weights under equal rules."""
