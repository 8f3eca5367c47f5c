"""Every verb of `unimo`, one function each. Heavy imports wait inside them, so that help comes at once.

    training    pretrain, evaluate, finetune, quadrants, predict
    runs        compare, bench, recipes, describe
    asking      index, search, caption, fill, classify
    weights     convert, initialise
    preparing   prepare index, regions, rewrites, neighbours

Help shows them in the order in which they are imported here.
"""

from unimo.cli import training, runs, asking, weights, preparing  # noqa: I001
from unimo.cli.common import app
from unimo.cli.running import main

__all__ = ["app", "asking", "main", "preparing", "runs", "training", "weights"]
