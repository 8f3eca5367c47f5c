"""All tasks by name; one file each. A task makes a trained model predict, and scores what it predicted:

    task = Retrieval(pairs=("data/test",))
    predictions = task.predict(EvalContext(pipeline))    # the model runs here, and nowhere else
    rows = task.score(predictions)                       # rows of a report: see `unimo.evaluation.report`
    examples = task.show(predictions)                    # and its qualitative examples

`predict` gives plain arrays and strings, so predictions can be kept, compared and scored again without the model.
"""

from __future__ import annotations

from unimo.evaluation.zero_shot.captioning import Captioning
from unimo.evaluation.zero_shot.classification import Classification
from unimo.evaluation.zero_shot.context import EvalContext
from unimo.evaluation.zero_shot.dictionary import DictionaryUse
from unimo.evaluation.zero_shot.foils import Foils
from unimo.evaluation.zero_shot.masked_words import MaskedWords
from unimo.evaluation.zero_shot.retrieval import Retrieval
from unimo.evaluation.zero_shot.scenes import SceneTruth

TASKS = {
    "retrieval": Retrieval,
    "foils": Foils,
    "classification": Classification,
    "masked_words": MaskedWords,
    "captioning": Captioning,
    "scene_truth": SceneTruth,
    "dictionary": DictionaryUse,
}

__all__ = ["TASKS", "EvalContext", *(task.__name__ for task in TASKS.values())]
