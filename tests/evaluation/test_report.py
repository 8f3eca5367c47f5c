"""A report as a page, a table and JSON: whole, self-contained, and safe from what strangers wrote."""

import base64
import json
import math
import os
import re
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from unimo.errors import DataError, ResourceError
from unimo.evaluation.report import render, scores_table, tables_text, write_json
from unimo.html_pages import line_chart, plain, write_page
from unimo.metrics.intervals import Score

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title><svg onload=alert(1)>",
    "--><iframe src=javascript:alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{7*7}}${7*7}{% raw %}",
    "\x00<scr\x00ipt>alert(1)</script>",
    "\u202eevil.gpj\u2066<b>",
    "\ud800<a href='data:text/html,x'>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<base href=//evil.example>",
    "]]><link rel=stylesheet href=//evil.example/x.css>",
    "[bold red]rich[/]",
]


class Reader(HTMLParser):
    """Tags, attributes and text as a browser's parser would meet them."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def everything(text="plain", number=0.5):
    """A report with all kinds of content, one text in every place."""
    of_text = {"task": text, "metric": text, "unit": "%"}
    photo, patch = Image.new("RGB", (500, 300), "teal"), Image.new("RGBA", (16, 16))
    return {
        "title": text,
        "summary": text,
        "facts": {text: text, "command": text, "seed": 0},
        "scores": [
            {**of_text, "score": Score(0.61, 0.55, 0.67, 256, 0.004), "note": text},
            {**of_text, "metric": f"{text}, copied", "score": Score(0.31, 0.25, 0.37, 256), "baseline": True},
            {"task": text, "metric": "perplexity", "score": 812.0, "unit": text},
            {"task": "other", "metric": "CIDEr-D", "score": number},
        ],
        "curves": [
            {"title": text, "x": text, "y": text, "series": {text: [(0, 3.0), (10, 2.0), (20, number)], "b": []}}
        ],
        "tables": [{"title": text, "note": text, "columns": [text, "b"], "rows": [[text, text]]}],
        "examples": [
            {
                "title": text,
                "note": text,
                "items": [
                    {"image": photo, "title": text, "lines": [text, "reference"]},
                    {"image": patch, "title": text},
                    {"image": text.encode("utf-8", "replace"), "title": text, "lines": [text]},
                    {"image": None, "title": "no image"},
                ],
            }
        ],
        "notes": [text],
    }


def rendered(report, folder):
    render(report, folder / "report.html")
    return (folder / "report.html").read_text("utf-8")


def test_the_page_holds_what_the_report_holds_and_needs_nothing_else(tmp_path):
    html = rendered(everything("A red cube, 3 × 4"), tmp_path)
    read = Reader(html)
    assert read.text.count("A red cube, 3 × 4") > 18
    for shown in ("61.0 %", "55.0 to 67.0 %", "0.4 %", "256", "CIDEr-D", "812.0", "reference", "no image", "seed"):
        assert shown in read.text
    assert "copied: 31.0 %" in read.text[: read.text.index("Scores")]  # the first screen: a score beside its baseline
    assert read.tags.count("img") == 2 + 1 and "image not readable" in read.text
    policy = next(value for tag, name, value in read.attributes if tag == "meta" and "default-src" in value)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not {"script", "link", "iframe", "object", "base", "a"} & set(read.tags)
    assert all(v.startswith("data:image/") for _, name, v in read.attributes if name in ("src", "href", "srcset"))
    assert not re.search(r"@import|url\(|https?:|//\w", re.sub(r"base64,[\w+/=]+", "", html))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_stays_text_everywhere(tmp_path, payload):
    harmless, hostile = (Reader(rendered(everything(text), tmp_path)) for text in ("plain", payload))
    assert hostile.tags == harmless.tags  # not one element more, less or other
    assert [(t, n) for t, n, _ in hostile.attributes] == [(t, n) for t, n, _ in harmless.attributes]
    assert hostile.text.count(plain(payload)) >= harmless.text.count("plain") - 2
    assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069]", hostile.text)
    printed = scores_table(everything(payload)) + tables_text(everything(payload))
    assert plain(payload) in printed and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed)


def test_the_first_screen_has_three_scores_one_of_each_task_first(tmp_path):
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "chance": 0.25}
    rows = [{"task": task, "metric": f"{task}{i}", "score": score} for task in ("x", "y") for i in range(3)]
    html = rendered({"title": "t", "scores": [{"task": "z", "metric": "m", "score": 1.0}, *rows]}, tmp_path)
    shown = re.findall(r"</b>(\w+)<small>", html)
    assert shown == ["x0", "y0", "x1"] and html.count("chance: 0.25") == 3


def test_images_are_shrunk_keep_their_shape_and_are_left_alone(tmp_path):
    wide = np.random.default_rng(0).integers(0, 255, (900, 1800, 3), dtype=np.uint8)
    image = Image.fromarray(wide)
    html = rendered({"title": "t", "examples": [{"title": "g", "items": [{"image": image}]}]}, tmp_path)
    assert 'width="360" height="180"' in html and len(html) < 150_000
    assert image.size == (1800, 900)


def paths_of(series):
    svg = base64.b64decode(line_chart(series).partition(",")[2]).decode()
    assert "script" not in svg and ElementTree.fromstring(svg) is not None
    return re.findall(r'<path d="([^"]+)" clip-path[^>]*style="fill: none; stroke: #3b7dd8', svg)


def test_curves_break_at_gaps_keep_spikes_and_are_the_same_again():
    gap = [(0, 1.0), (1, 2.0), (2, math.nan), (3, math.inf), (4, None), (5, 2.0), (6, 3.0)]
    (path,) = paths_of({"loss": gap})
    assert path.count("M") == 2
    long = [(float(i), 1.0) for i in range(100_000)]
    long[54_321] = (54_321.0, 99.0)
    (path,) = paths_of({"loss": long})
    heights = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]
    assert len(heights) < 5_000 and max(heights) - min(heights) > 100
    assert line_chart({"loss": gap}) == line_chart({"loss": gap})


def test_without_matplotlib_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install "unimo[report]"' in rendered(everything(), tmp_path)


def test_the_terminal_table_is_aligned():
    lines = scores_table(everything("a\nforged line")).split("\n")
    assert len(lines) == 2 + 4
    assert "61.0 %" in lines[2] and "55.0 to 67.0 %" in lines[2] and "256" in lines[2]
    assert lines[0].index("95 % interval") == lines[2].index("55.0 to 67.0 %")


def test_json_is_strict_says_what_it_could_not_write_and_renders_again(tmp_path):
    report = everything(number=math.nan)
    report["scores"].append({"task": "t", "metric": "m", "score": Score(math.inf, 0.0, 1.0, 3)})
    report["facts"]["array"] = np.arange(3)
    write_json(report, tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert data["scores"][0]["score"] == {"value": 0.61, "low": 0.55, "high": 0.67, "n": 256, "chance": 0.004}
    assert data["scores"][3]["score"] is None and data["facts"]["array"] == [0, 1, 2]
    for where in ("scores[3].score (nan)", "scores[4].score.value (inf)", "curves[0].series.plain[2][1] (nan)"):
        assert where in data["notes"][-1]
    assert report["notes"] == ["plain"]  # the caller's report is unchanged
    again = Reader(rendered(data, tmp_path))
    assert "61.0 %" in again.text and "undefined" in again.text and again.tags.count("img") == 1
    assert scores_table(data) == scores_table(report)
    with pytest.raises(DataError, match=r"facts\.thing"):
        write_json({"title": "t", "facts": {"thing": object()}}, tmp_path / "x.json")


def test_a_failed_write_leaves_the_old_page_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "new folder" / "report.html"
    assert "<h1>old</h1>" in (rendered({"title": "old"}, target.parent))
    with pytest.raises(ResourceError):
        write_page(target / "below a file.html", title="t")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError):
        render({"title": "new"}, target)
    assert "old" in target.read_text("utf-8")
    assert [file.name for file in target.parent.iterdir()] == ["report.html"]
