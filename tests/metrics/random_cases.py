"""Random corpora that are the same on every machine: only `Random.random` is promised never to change."""

import random

WORDS = ("a", "the", "red", "blue", "dog", "cat", "on", "near", "ball", "runs")


def corpora(cases, seed=0, words=WORDS):
    """`cases` small corpora of (candidates, references), word lists, with 2 to 6 images of 1 to 3 references.

    Half of the candidates are a reference with about a third of its words changed.
    """
    r = random.Random(seed)

    def number(low, high):
        return low + int(r.random() * (high - low + 1))

    def word():
        return words[number(0, len(words) - 1)]

    def sentence():
        return [word() for _ in range(number(1, 12))]

    def candidate(references):
        if r.random() < 0.5:
            return sentence()
        return [own if r.random() < 0.7 else word() for own in references[number(0, len(references) - 1)]]

    for _ in range(cases):
        references = [[sentence() for _ in range(number(1, 3))] for _ in range(number(2, 6))]
        yield [candidate(wanted) for wanted in references], references
