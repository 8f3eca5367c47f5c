import json
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from unimo.errors import DataError, ResourceError
from unimo.evaluation.report import plots, render, scores_table, wording, write_json
from unimo.metrics.intervals import Score

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title><svg onload=alert(1)>",
    "--><iframe src=javascript:alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{7*7}}${7*7}",
    "\x00<scr\x00ipt>alert(1)</script>",
    "\u202eevil.gpj\u2066<b>",
    "\ud800<a href='data:text/html,x'>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<base href=//evil.example>",
    "]]><link rel=stylesheet href=//evil.example/x.css>",
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
    return {
        "title": text,
        "facts": {text: text, "command": text, "seed": 0},
        "scores": [
            {
                "task": text,
                "metric": text,
                "score": Score(0.61, 0.55, 0.67, 256, 0.004),
                "unit": "%",
                "note": text,
            },
            {"task": text, "metric": "perplexity", "score": 812.0, "unit": text},
            {"task": "other", "metric": "CIDEr-D", "score": number},
        ],
        "curves": [
            {
                "title": text,
                "x": text,
                "y": text,
                "series": {text: [(0, 3.0), (10, 2.0), (20, number)], "b": []},
            }
        ],
        "galleries": [
            {
                "title": text,
                "note": text,
                "items": [
                    {
                        "image": Image.new("RGB", (500, 300), "teal"),
                        "title": text,
                        "lines": [text, "reference"],
                    },
                    {"image": Image.new("RGBA", (16, 16)), "title": text},
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


def test_the_page_holds_what_the_report_holds(tmp_path):
    report = everything("A red cube, 3 × 4")
    read = Reader(rendered(report, tmp_path))
    assert read.text.count("A red cube, 3 × 4") > 15
    for shown in (
        "61.0 %",
        "55.0 to 67.0 %",
        "0.4 %",
        "256",
        "CIDEr-D",
        "812.0",
        "reference",
        "no image",
        "seed",
    ):
        assert shown in read.text
    assert read.tags.count("img") == 2
    assert "image not readable" in read.text


def test_the_page_needs_nothing_but_itself(tmp_path):
    html = rendered(everything(), tmp_path)
    read = Reader(html)
    policy = next(value for tag, name, value in read.attributes if tag == "meta" and "default-src" in value)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not {"script", "link", "iframe", "object", "base", "a"} & set(read.tags)
    assert all(v.startswith("data:image/") for _, name, v in read.attributes if name in ("src", "href", "srcset"))
    assert not re.search(r"@import|url\(|https?:|//\w", re.sub(r"base64,[\w+/=]+", "", html))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_stays_text_everywhere(tmp_path, payload):
    harmless, hostile = (
        Reader(rendered(everything(), tmp_path)),
        Reader(rendered(everything(payload), tmp_path)),
    )
    assert hostile.tags == harmless.tags  # not one element more, less or other
    assert [(t, n) for t, n, _ in hostile.attributes] == [(t, n) for t, n, _ in harmless.attributes]
    assert not any(name.startswith("on") for _, name, _ in hostile.attributes)
    assert hostile.text.count(wording.plain(payload)) >= harmless.text.count("plain") - 2
    assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069]", hostile.text)


def test_images_are_shrunk_and_keep_their_shape(tmp_path):
    wide = np.random.default_rng(0).integers(0, 255, (900, 1800, 3), dtype=np.uint8)
    report = {"title": "t", "galleries": [{"title": "g", "items": [{"image": Image.fromarray(wide)}]}]}
    html = rendered(report, tmp_path)
    assert ('width="360" height="180"') in html
    assert len(html) < 150_000


def test_the_callers_image_is_left_alone(tmp_path):
    image = Image.new("RGB", (500, 300))
    rendered({"title": "t", "galleries": [{"title": "g", "items": [{"image": image}]}]}, tmp_path)
    assert image.size == (500, 300)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0, 60000), (-3e-5, 7e-4), (1.99, 2.01), (-5, 1e6), (1e-9, 2e-9), (12345.6, 12345.7)],
)
def test_ticks_are_round_inside_and_distinct(low, high):
    ticks = plots._ticks(low, high, 5)
    labels = [plots._tick_label(tick, ticks) for tick in ticks]
    assert 3 <= len(ticks) <= 9
    assert low - 1e-9 * abs(high - low) <= ticks[0] and ticks[-1] <= high + 1e-9 * abs(high - low)
    assert len(set(labels)) == len(labels)
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_points_land_where_the_axes_say():
    svg = plots.plot([[[(0.0, 0.0), (10.0, 1.0)]]], {"title": "t"})
    (x0, y0), (x1, y1) = ((float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", svg))
    assert (x0, y0) == (plots._LEFT, plots._HEIGHT - plots._BOTTOM)
    assert (x1, y1) == (plots._WIDTH - plots._RIGHT, plots._TOP)


def test_a_gap_is_drawn_as_a_gap_and_a_spike_survives_thinning():
    runs = plots.finite_runs([(0, 1.0), (1, math.nan), (2, 1.0), (3, math.inf), (4, None), (5, 2.0), (6, 3.0)])
    assert runs == [[(0, 1)], [(2, 1)], [(5, 2), (6, 3)]]
    run = [(float(i), 1.0) for i in range(100_000)]
    run[54_321] = (54_321.0, 99.0)
    run[77_777] = (77_777.0, -99.0)
    thin = plots._thin(run)
    assert len(thin) <= 2 * plots._POINTS + 2
    assert {run[0], run[-1], run[54_321], run[77_777]} <= set(thin)
    assert [x for x, _ in thin] == sorted(x for x, _ in thin)


@pytest.mark.parametrize("points", [[], [(3, 2.0)], [(0, 1.0), (9, 1.0)], [(0, math.nan)], [(0, 0.0), (0, 0.0)]])
def test_odd_curves_still_draw(tmp_path, points):
    html = rendered({"title": "t", "curves": [{"title": "c", "series": {"s": points}}]}, tmp_path)
    assert "nan" not in html.lower()


def test_a_report_of_a_title_alone_is_a_page(tmp_path):
    assert "<h1>only this</h1>" in rendered({"title": "only this"}, tmp_path)


def test_the_table_is_aligned_and_safe_for_a_terminal():
    hostile = "\x1b[2J\x1b]0;owned\x07 name\nforged line"
    table = scores_table(everything(hostile))
    lines = table.split("\n")
    assert len(lines) == 2 + 3
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", table)
    assert "61.0 %" in lines[2] and "55.0 to 67.0 %" in lines[2] and "256" in lines[2]
    assert lines[0].index("95 % interval") == lines[2].index("55.0 to 67.0 %")


def test_json_is_strict_and_says_what_it_could_not_write(tmp_path):
    report = everything(number=math.nan)
    report["scores"].append({"task": "t", "metric": "m", "score": Score(math.inf, 0.0, 1.0, 3)})
    report["facts"]["array"] = np.arange(3)
    write_json(report, tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert data["scores"][0]["score"] == {"value": 0.61, "low": 0.55, "high": 0.67, "n": 256, "chance": 0.004}
    assert data["scores"][2]["score"] is None
    assert data["facts"]["array"] == [0, 1, 2]
    note = data["notes"][-1]
    for where in (
        "scores[2].score (nan)",
        "scores[3].score.value (inf)",
        "curves[0].series.plain[2][1] (nan)",
    ):
        assert where in note
    assert report["notes"] == ["plain"]  # the caller's report is unchanged


def test_the_written_json_can_be_rendered_again(tmp_path):
    write_json(everything(number=math.nan), tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text("utf-8"))
    again = Reader(rendered(data, tmp_path))
    assert "61.0 %" in again.text and "not defined" in again.text
    assert "img" not in again.tags
    assert scores_table(data) == scores_table(everything(number=math.nan))


@pytest.mark.parametrize(
    ("report", "where", "hint"),
    [
        ({"title": "t", "score": []}, "report", "scores"),
        ({"title": "t", "scores": [{"task": "a", "metrik": "b", "score": 1}]}, "scores[0]", "metric"),
        (
            {"title": "t", "galleries": [{"title": "g", "items": [{"lines": []}, {"line": []}]}]},
            "items[1]",
            "lines",
        ),
        ({"facts": {}}, "report", "title"),
        ({"title": "t", "curves": [{"title": "c"}]}, "curves[0]", "series"),
        ({"title": "t", "scores": ["a"]}, "scores[0]", "str"),
    ],
)
def test_a_report_off_the_schema_is_a_located_error(tmp_path, report, where, hint):
    for write in (
        lambda: render(report, tmp_path / "x"),
        lambda: write_json(report, tmp_path / "x"),
        lambda: scores_table(report),
    ):
        with pytest.raises(DataError) as caught:
            write()
        assert where in str(caught.value) and hint in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_json_value_is_a_located_error(tmp_path):
    with pytest.raises(DataError, match=r"facts\.thing"):
        write_json({"title": "t", "facts": {"thing": object()}}, tmp_path / "x.json")


def test_a_failed_write_leaves_the_old_page_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    render({"title": "old"}, target)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError):
        render({"title": "new"}, target)
    assert "old" in target.read_text("utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_cannot_be_made_is_a_located_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError):
        render({"title": "t"}, tmp_path / "file" / "report.html")
