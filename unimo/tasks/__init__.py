"""All tasks by name; one file each. A task asks a trained model and marks its answers:

    task = Retrieval(pairs=("data/test",))
    answers = task.predict(Material(answerer))    # the model runs here, and nowhere else
    rows = task.score(answers)                    # rows of a report: see `unimo.report`
    pages = task.show(answers)                    # and its galleries

`predict` gives plain arrays and strings, so answers can be kept, compared and marked again without the model.
"""

from __future__ import annotations

from unimo.tasks.captioning import Captioning
from unimo.tasks.classification import Classification
from unimo.tasks.dictionary import DictionaryUse
from unimo.tasks.foils import Foils
from unimo.tasks.masked_words import MaskedWords
from unimo.tasks.material import Material
from unimo.tasks.retrieval import Retrieval
from unimo.tasks.scenes import SceneTruth

TASKS = {
    "retrieval": Retrieval,
    "foils": Foils,
    "classification": Classification,
    "masked_words": MaskedWords,
    "captioning": Captioning,
    "scene_truth": SceneTruth,
    "dictionary": DictionaryUse,
}

__all__ = ["TASKS", "Material", *(task.__name__ for task in TASKS.values())]
