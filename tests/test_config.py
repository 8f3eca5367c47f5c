"""Settings come back exactly, wrong ones are refused with the remedy, and JSON from strangers cannot hurt."""

import dataclasses
import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimo.config import describe, diff, fingerprint, flatten, from_dict, override, setting, to_dict
from unimo.errors import DataError, ResourceError, UsageError
from unimo.json_files import load_json, parse_json, write_json


@dataclass(frozen=True)
class Vision:
    width: int = setting(64, "Width of the image tower.")
    size: tuple[int, int] = setting((96, 96), "Height and width of an image in pixels.")


@dataclass(frozen=True)
class Model:
    width: int = setting(128, "Width of the shared transformer.")
    vision: Vision = setting(Vision(), "The image tower.")
    grounding: Literal["normal", "topk"] = setting("topk", "How dictionary entries are chosen.")


@dataclass(frozen=True)
class Recipe:
    name: str = setting("tiny", "Name in reports.")
    steps: int = setting(100, "Optimizer steps.")
    rate: float = setting(1e-4, "Peak learning rate.")
    bf16: bool = setting(True, "Compute in bf16.")
    minutes: float | None = setting(None, "Stop after so many minutes.")
    pairs: tuple[str, ...] = setting((), "Folders of pairs.")
    betas: tuple[float, float] = setting((0.9, 0.999), "AdamW's betas.")
    levels: list[int] = setting([1, 2], "Some whole numbers.")
    model: Model = setting(Model(), "The model.")
    teacher: Model | None = setting(None, "A second model, or none.")

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError("steps must not be negative")


@pytest.mark.parametrize(
    ("text", "read", "value"),
    [
        ("steps=7", lambda r: r.steps, 7),
        ("rate=3", lambda r: r.rate, 3.0),
        ("rate = 1e-3", lambda r: r.rate, 1e-3),
        ("bf16=no", lambda r: r.bf16, False),
        ("name=a=b", lambda r: r.name, "a=b"),
        ("name=none", lambda r: r.name, "none"),
        ("minutes=2.5", lambda r: r.minutes, 2.5),
        ("minutes=none", lambda r: r.minutes, None),
        ("pairs=a,b c", lambda r: r.pairs, ("a", "b c")),
        ("pairs=", lambda r: r.pairs, ()),
        ("pairs=a,", lambda r: r.pairs, ("a",)),
        ('pairs=["x,y"]', lambda r: r.pairs, ("x,y",)),
        ("betas=0.5,1", lambda r: r.betas, (0.5, 1.0)),
        ("levels=[3]", lambda r: r.levels, [3]),
        ("model.width=9", lambda r: r.model.width, 9),
        ("model.vision.size=32,48", lambda r: r.model.vision.size, (32, 48)),
        ("model.grounding=normal", lambda r: r.model.grounding, "normal"),
        ("teacher.vision.width=5", lambda r: r.teacher.vision.width, 5),
    ],
)
def test_a_text_sets_its_field_and_no_other(text, read, value):
    changed = override(Recipe(), [text])
    assert read(changed) == value
    assert type(read(changed)) is type(value)
    key = text.partition("=")[0].strip()
    assert all(row[0] == key or row[0].startswith("teacher") for row in diff(Recipe(), changed))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stpes=3", "steps"),
        ("model.widht=3", "model.width"),
        ("model.vison.width=3", "model.vision.width"),
        ("grounding=topk", "model.grounding"),
        ("Rate=1", "rate"),
        ("steps.x=1", "steps"),
        ("steps=3.5", "whole number"),
        ("steps=", "whole number"),
        ("steps=none", "whole number"),
        ("steps=true", "whole number"),
        ("rate=fast", "finite number"),
        ("rate=nan", "finite number"),
        ("rate=1e999", "finite number"),
        ("bf16=maybe", "true or false"),
        ("minutes=soon", "finite number or none"),
        ("betas=0.9", "2 values"),
        ("betas=0.9,x", "finite number"),
        ("levels=[1", "JSON"),
        ("levels=[1,true]", "whole number"),
        ("model.grounding=top", "normal, topk"),
        ("model=big", "model.width"),
        ("teacher=big", "teacher.width"),
        ("steps", "key=value"),
        ("=3", "key=value"),
        ("steps=-1", "must not be negative"),
    ],
)
def test_a_wrong_text_is_refused_naming_the_remedy(text, named):
    with pytest.raises(UsageError, match=re.escape(named)):
        override(Recipe(), [text])


def test_every_key_misspelt_by_one_letter_is_refused_and_suggested():
    for key in flatten(Recipe(teacher=Model())):
        for place in range(len(key)):
            wrong = key[:place] + key[place + 1 :]
            with pytest.raises(UsageError) as caught:
                override(Recipe(teacher=Model()), [f"{wrong}=1"])
            # Losing a letter may leave another real key's group; elsewhere the key itself is the nearest.
            assert caught.value.parts()["expected"]
            if len(key) > 6 and key[place] != ".":
                assert key.rpartition(".")[2][:3] in caught.value.one_line(), (wrong, caught.value.one_line())


def test_one_key_with_two_values_is_a_contradiction():
    with pytest.raises(UsageError, match="two values"):
        override(Recipe(), ["steps=1", "steps=2"])
    with pytest.raises(UsageError, match="emptied and set"):
        override(Recipe(), ["teacher=none", "teacher.width=2"])
    assert override(Recipe(), ["steps=1", "steps=1"]).steps == 1


floats = st.floats(allow_nan=False, allow_infinity=False)
recipes = st.builds(
    Recipe,
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Z"]), max_size=8),
    steps=st.integers(0, 2**70),
    rate=floats,
    bf16=st.booleans(),
    minutes=st.none() | floats,
    pairs=st.lists(st.text(st.characters(codec="utf-8"), max_size=5)).map(tuple),
    betas=st.tuples(floats, floats),
    levels=st.lists(st.integers()),
    model=st.builds(Model, width=st.integers(), grounding=st.sampled_from(["normal", "topk"])),
    teacher=st.none() | st.builds(Model, vision=st.builds(Vision, size=st.tuples(st.integers(), st.integers()))),
)


@given(recipes)
def test_settings_come_back_from_json_and_from_their_description(recipe):
    again = from_dict(Recipe, parse_json(json.dumps(to_dict(recipe)), where="here"))
    assert again == recipe
    assert struct.pack("d", again.rate) == struct.pack("d", recipe.rate)  # also -0.0
    assert fingerprint(again) == fingerprint(recipe)
    assert diff(again, recipe) == []

    lines = [line.split("  # ")[0].replace(" = ", "=", 1) for line in describe(dataclasses.replace(recipe, name="x"))]
    lines = [line for line in lines if not line.startswith("pairs")]  # may hold "  # " itself
    assert dataclasses.replace(override(Recipe(), lines), name=recipe.name, pairs=recipe.pairs) == recipe


@given(recipes, recipes)
def test_fingerprints_and_diff_agree_on_equality(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (diff(a, b) == [])


def test_diff_names_key_old_and_new():
    old, new = Recipe(), override(Recipe(), ["model.vision.width=7", "rate=1"])
    assert diff(old, new) == [("rate", 1e-4, 1.0), ("model.vision.width", 64, 7)]
    assert diff(to_dict(old), new) == diff(old, new)
    shorter = to_dict(old)
    del shorter["steps"]
    assert diff(shorter, old) == [("steps", "(absent)", 100)]
    assert diff({"a": 1}, {"a": True}) == [("a", 1, True)]


def test_describe_has_every_setting_with_its_sentence():
    lines = describe(Recipe())
    assert "model.vision.size = [96, 96]  # Height and width of an image in pixels." in lines
    assert "teacher = none  # A second model, or none." in lines
    assert len(lines) == len(flatten(Recipe()))


def test_a_field_without_a_sentence_is_refused():
    @dataclass(frozen=True)
    class Silent:
        width: int = 3

    with pytest.raises(TypeError, match=r"Silent\.width has no sentence"):
        describe(Silent())


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"stepz": 3}, "steps"),
        ({"model": {"vision": {"widht": 3}}}, "model.vision.width"),
        ({"steps": 3.0}, "steps"),
        ({"steps": True}, "steps"),
        ({"rate": "1"}, "rate"),
        ({"bf16": 1}, "bf16"),
        ({"pairs": "ab"}, "pairs"),
        ({"betas": [1, 2, 3]}, "betas"),
        ({"model": 3}, "model"),
        ({"model": {"vision": None}}, "model.vision"),
        ({"model": {"grounding": "x"}}, "model.grounding"),
        ({"name": None}, "name"),
    ],
)
def test_from_dict_is_strict_and_says_where(values, where):
    with pytest.raises(UsageError, match=re.escape(where)):
        from_dict(Recipe, values)


# ---------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        "[" * 100_000,
        "[" * 65 + "]" * 65 + " ",
        '{"a":' * 70 + "1" + "}" * 70,
        "9" * 5000,
        "{",
        "",
        b'"\xff"',
        b"\xff\xfe[\x00]\x00",
    ],
    ids=lambda text: str(text[:12]),
)
def test_hostile_json_is_refused_with_its_place(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"x\.json"):
        load_json(path)
    with pytest.raises(UsageError):
        load_json(path, error=UsageError)


def test_json_too_large_or_not_a_file_is_refused_unread(tmp_path):
    (tmp_path / "large").write_text("[" + "1," * 600 + "1]")
    with pytest.raises(DataError, match="too large"):
        load_json(tmp_path / "large", max_bytes=1000)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", "."):
        with pytest.raises(DataError, match="no such file"):
            load_json(tmp_path / name)


words = st.text(st.characters(codec="utf-8"))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | words,
    lambda inner: st.lists(inner) | st.dictionaries(words, inner),
)


@given(plain)
def test_what_is_written_comes_back_exactly(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert repr(load_json(path)) == repr(value)  # repr tells 1 from 1.0 and True, and -0.0 from 0.0


@pytest.mark.parametrize("value", [float("nan"), (1, 2), {1: 2}, {"a": {"b": [object()]}}, "\ud800", b"x"])
def test_what_would_not_come_back_is_not_written(tmp_path, value):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(DataError, match=r"x\.json"):
        write_json(tmp_path / "x.json", value)
    assert load_json(tmp_path / "x.json") == 1


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", {"old": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="disk full"):
        write_json(tmp_path / "x.json", {"new": 2})
    assert load_json(tmp_path / "x.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_config_stands_on_the_ground_floor():
    code = "import sys, unimo.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
