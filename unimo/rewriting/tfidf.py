"""The captions of other images nearest to a caption by TF-IDF, below a ceiling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimo.nearest import bags, document_frequency, tf_idf, word_numbers
from unimo.ragged import offsets_of
from unimo.rewriting.scene_graph import grammar, tokens


class NearCaptions:
    """Exact nearest captions by the cosine of TF-IDF (`unimo.nearest.tf_idf`), through an inverted index.

    Function words count for nothing, numbers do. A query touches only captions that share a word with it.
    """

    def __init__(self, texts: Sequence[str], owner: np.ndarray):
        """owner: (n,) the image of each caption."""
        functions = {word for word, tags in grammar().tags.items() if tags[0] in "ADPXCOW"}
        said = (
            [token.text for token in tokens(text) if token.text not in functions and token.text[0].isalnum()]
            for text in texts
        )
        numbers: dict[str, int] = {}
        counts = bags(word_numbers(said, numbers, grow=True))
        frequency = document_frequency(counts, len(numbers))
        self._rows, self._owner = tf_idf(counts, frequency, len(texts)), owner
        order = np.argsort(self._rows.terms, kind="stable")  # by word, then by caption
        self._captions, self._weights = self._rows.owners()[order], self._rows.values[order]
        self._postings = offsets_of(frequency)

    def nearest(self, queries: Sequence[int], k: int, ceiling: float) -> list[list[tuple[int, float]]]:
        """For each query at most k (caption, similarity) of other images with 0 < similarity < ceiling, best first;
        equals in order of the corpus."""
        found = []
        score = np.empty(len(self._owner), dtype=np.float32)
        for query in queries:
            score[:] = 0
            for term, weight in zip(*self._rows.row(query)):
                some = slice(self._postings[term], self._postings[term + 1])
                score[self._captions[some]] += weight * self._weights[some]  # a caption comes once per word
            score[self._owner == self._owner[query]] = 0
            score[score >= ceiling] = 0
            touched = np.flatnonzero(score)
            if len(touched) > k:
                least = np.partition(score[touched], len(touched) - k)[len(touched) - k]
                touched = touched[score[touched] >= least]
            order = np.lexsort((touched, -score[touched]))[:k]
            found.append([(int(touched[o]), float(score[touched[o]])) for o in order])
        return found
