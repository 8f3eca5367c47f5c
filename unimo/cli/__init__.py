"""Every verb of `unimo`, one function each. Heavy imports wait inside them, so that help comes at once.

    training    pretrain, evaluate
    finetuning  finetune, sweep, benchmark, predict
    runs        compare, speed, recipes, describe, plan
    inference   index, search, caption, fill-mask, classify
    serve       serve
    weights     convert, init-from-pretrained
    prepare     data check, prepare regions, rewrites, neighbours

Help shows them in the order in which they are imported here.
"""

from unimo.cli import training, finetuning, runs, inference, serve, weights, prepare  # noqa: I001
from unimo.cli.app import app
from unimo.cli.main import main

__all__ = ["app", "finetuning", "inference", "main", "prepare", "runs", "serve", "training", "weights"]
