"""Fine-tuning: task types, benchmarks, readers of their files, scoring, prediction, sweeps."""
