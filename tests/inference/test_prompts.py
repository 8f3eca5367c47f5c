"""Templates of zero-shot classification: understood, or refused by name."""

from __future__ import annotations

import random
import string

import pytest

from unimo.errors import UsageError
from unimo.inference.classification import PROMPTS, prompted


def test_every_template_gets_every_name_in_order():
    assert prompted(["dog", "cat"], ["{}", "a {}"]) == ["dog", "a dog", "cat", "a cat"]
    assert prompted(["dog"]) == [prompt.format("dog") for prompt in PROMPTS]


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a photo of a {c}", "a photo of a red {dog}"),
        ("{classname}", "red {dog}"),
        ("{0}, a kind of animal", "red {dog}, a kind of animal"),
        ("{c} beside {c}", "red {dog} beside red {dog}"),
        ("50% {{off}} {}", "50% {off} red {dog}"),
    ],
)
def test_case_prompts_with_any_one_name_for_the_place(prompt, expected):
    """A name is put in as it is: its own braces are no places."""
    assert prompted(["red {dog}"], [prompt]) == [expected]


@pytest.mark.parametrize(
    "prompt, why",
    [
        ("50% {", "odd brace"),
        ("} {}", "odd brace"),
        ("a photo", "without a place"),
        ("", "without a place"),
        ("a photo of a %s", "without a place"),
        ("{{}}", "without a place"),
        ("{a} beside {b}", "different names"),
        ("{} beside {c}", "different names"),
        ("{0} {1}", "different names"),
        ("{:>10}", "more than a name"),
        ("{c!r}", "more than a name"),
        ("{c.__class__}", "more than a name"),
        ("{c[0]}", "more than a name"),
        (None, "not a prompt"),
        (5, "not a prompt"),
    ],
)
def test_case_prompts_that_are_refused_by_name(prompt, why):
    with pytest.raises(UsageError, match=why) as fault:
        prompted(["dog"], ["{}", prompt])
    assert "prompts" in str(fault.value)


@pytest.mark.parametrize("names", [[], "dog", [""], ["  "], [None], [3], ["dog", "cat", "dog"], None, 5])
def test_class_names_that_would_be_answered_nonsense_are_refused(names):
    with pytest.raises(UsageError, match="class"):
        prompted(names)


@pytest.mark.parametrize("prompts", [[], "a {}", None])
def test_prompts_that_are_no_list_are_refused(prompts):
    with pytest.raises(UsageError, match="prompt"):
        prompted(["dog"], prompts)


class Always(string.Formatter):
    """Fills every place with X, as `str.format` reads places."""

    def get_value(self, key, args, kwargs):
        return "X"


def test_random_templates_are_filled_or_refused():
    """What is accepted equals what str.format makes of it; the rest is a UsageError, never another."""
    rng = random.Random(0)
    parts = ["{", "}", "{}", "{c}", "{{", "}}", "a ", "0", "!r", ":", ".x", "[", "]", "%s", "é"]
    accepted = 0
    for _ in range(3000):
        prompt = "".join(rng.choice(parts) for _ in range(rng.randint(0, 6)))
        try:
            (told,) = prompted(["X"], [prompt])
        except UsageError:
            continue
        accepted += 1
        assert told == Always().vformat(prompt, (), {})
    assert accepted > 100
