"""The page in a browser: every tab, an upload, an error, a phone; skipped where there is none to be driven."""

from __future__ import annotations

import os
import shutil

import pytest
from planted import random_pipeline
from serving import png, served

from unimo.model.task_heads import HeadSettings, TaskHead
from unimo.serve.collection import Runs

BROWSER = os.environ.get("UNIMO_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    if BROWSER is None:
        pytest.skip("needs a browser (apt-get install chromium, or UNIMO_BROWSER=/path/to/one)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def base(pipeline, collection, tmp_path_factory):
    """Where a page with everything is: a collection, a dictionary, an evaluated run."""
    run = tmp_path_factory.mktemp("runs") / "<b>mine"
    run.mkdir()
    score = '{"value": 0.5, "low": 0.4, "high": 0.6}'
    (run / "evaluation.json").write_text('{"scores": [{"task": "T", "metric": "R@1", "score": %s}]}' % score)  # noqa: UP031
    with served(pipeline, collection, Runs.beside(run), name="<i>tiny") as client:
        yield str(client.base_url)


@pytest.fixture(params=[(1200, 850), (375, 812)], ids=["desktop", "phone"])
def page(browser, base, request):
    """The page, which asks for nothing elsewhere, logs no fault and is never wider than the screen."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if "status of 4" not in line.text else None)
    page.on(
        "request",
        lambda asked: faults.append(asked.url) if not asked.url.startswith((base, "data:", "blob:")) else None,
    )
    page.goto(base)
    yield page
    assert not faults
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_search(page):
    assert page.inner_text("h1") == "<i>tiny"
    page.fill("#search input[name=text]", "caption of 003")
    page.click("#search form button:has-text('Search')")
    page.wait_for_selector("#search .card img")
    assert page.locator("#search .card").count() == 16  # eight images, eight captions
    page.click("#search .examples button >> nth=2")
    page.wait_for_selector("#search .drop img:visible")
    page.fill("#search input[name=text]", "")
    page.select_option("#search select", "images")
    page.click("#search form button:has-text('Search')")
    page.wait_for_selector("#search .card img")
    assert page.locator("#search .card").count() == 8
    assert "cosine 1.000" in page.inner_text("#search .card >> nth=0")  # finds itself


def test_caption_and_mask_with_attention(page, pipeline, tmp_path):
    (tmp_path / "mine.png").write_bytes(png(5))
    page.click("#tab-ask")
    page.click("#ask button:has-text('caption')")
    assert "no image was chosen" in page.inner_text("#ask .problem")
    page.set_input_files("#ask .drop input", tmp_path / "mine.png")
    page.click("#ask button:has-text('caption')")
    page.wait_for_selector("#ask .stage canvas")
    assert page.inner_text("#ask h2") == f"“{pipeline.caption([png(5)])[0]}”"
    page.click("#ask .pieces button >> nth=1")
    assert page.get_attribute("#ask .pieces button >> nth=1", "aria-pressed") == "true"
    page.click("#ask button:has-text('[MASK]')")
    page.wait_for_selector("#ask .bars i")
    assert page.locator("#ask .bars i").count() == 5


def test_a_broken_image_is_named(page, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"no image")
    page.click("#tab-ask")
    page.set_input_files("#ask .drop input", tmp_path / "mine.png")
    page.click("#ask button:has-text('caption')")
    page.wait_for_selector("#ask .problem")
    assert "mine.png" in page.inner_text("#ask .problem") and "JPEG" in page.inner_text("#ask .problem")


def test_dictionary_and_runs(page):
    page.click("#tab-dictionary")
    page.wait_for_selector("#entries .card img")
    page.click("#dictionary .examples button >> nth=0")
    page.wait_for_selector("#dictionary .drop img:visible")
    page.click("#dictionary form button:has-text('Which')")
    page.wait_for_selector("#entries .card.chosen")
    page.click("#tab-runs")
    page.wait_for_selector("#runs table")
    assert "<b>mine" in page.inner_text("#runs") and "0.500" in page.inner_text("#runs table")
    page.keyboard.press("ArrowRight")
    page.focus("#tab-runs")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#search") and not page.is_visible("#runs")


def test_a_fine_tuned_model_without_a_collection_is_asked(browser):
    pipeline = random_pipeline()
    settings = HeadSettings(task="vqa", kind="answers", labels=("yes", "no", "two"), reads="both")
    pipeline.model.head = TaskHead(pipeline.model.width, settings, initial_std=1.0).eval()
    with served(pipeline) as client:
        page = browser.new_page()
        page.goto(f"{client.base_url}#ask")
        page.fill("#ask input[name=texts]", "how many?")
        page.click("#ask button:has-text('Ask')")
        assert "no image was chosen" in page.inner_text("#ask .problem")
        page.click("#ask .examples button >> nth=0")  # a photograph that ships
        page.wait_for_selector("#ask .drop img:visible")
        page.click("#ask button:has-text('Ask')")
        page.wait_for_selector("#ask h2")
        photograph = client.get("/examples/0").content
        assert page.inner_text("#ask h2") == pipeline.answer(["how many?"], [photograph])[0]
        page.click("#tab-search")
        assert "unimo index MODEL" in page.inner_text("#search")
        page.close()
