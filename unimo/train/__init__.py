"""Training: one loop for pre-training and fine-tuning.

loop.py             settings -> data -> model -> steps -> checkpoints
job.py              what differs between pre-training and fine-tuning; pretraining.py: pre-training as one
settings.py         settings of a pre-training run; data.py: its corpora, opened
plan.py             what a run needs (`unimo plan`), by a dry_run.py of one step
step.py             one step of all objectives as a module; parallel.py: by many processes
optimizer.py        AdamW and schedules; muon.py
early_stopping.py   the dev split during a run, and the best checkpoint
run_folder.py       the folder of a run and its log; logging.py, provenance.py
"""
