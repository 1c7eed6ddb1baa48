"""The report: self-contained, well-formed, small, and right; also in a real browser."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import browser as chromium
import numpy as np
import pytest
from conftest import CHARACTERS, call_script

from dataset import CharacterDataset
from evaluation import analysis
from evaluation.mistakes import Mistakes
from evaluation.score import Result

pytest.importorskip("matplotlib", reason="matplotlib is not there: requirements-optional.txt")
from evaluation import report  # noqa: E402

NASTY = '<script>alert("1")</script>&amp;'
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Read a page; fails on tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def dataset(data) -> CharacterDataset:
    classes = CharacterDataset(data / "test", size=32).classes
    return CharacterDataset(data / "test", size=32, classes=[*classes, NASTY])


def made_up(dataset: CharacterDataset, right: float, copies: int = 1) -> Result:
    """Return readings of which a share is right, with confidences of all sizes."""
    rng = np.random.default_rng(0)
    indices = np.tile(np.arange(len(dataset)), copies)
    labels = dataset.targets[indices]
    count = len(dataset.classes)
    top = np.stack([np.roll(np.arange(count), -label) for label in labels])
    wrong = rng.random(len(labels)) >= right
    top[wrong] = np.roll(top[wrong], rng.integers(1, count), axis=1)
    probability = np.sort(rng.dirichlet(np.full(count, 0.2), len(labels)), axis=1)[:, ::-1]
    losses = rng.random(len(labels)).astype(np.float32)
    return Result(top, probability.astype(np.float32), labels, losses, losses, indices)


def write(folder: Path, dataset: CharacterDataset, result: Result) -> str:
    """Write a report and return its text."""
    figures = [("data", "data/<test>"), ("top-1", f"{result.topk(1):.2%}"), ("note", "\n")]
    mistakes = Mistakes(result, dataset, dataset.classes)
    path = report.write_report(folder, figures, mistakes)
    assert sorted(folder.iterdir()) == [path] and path.name == "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(dataset, tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("report"), dataset, made_up(dataset, 0.3, 40))


def test_page_is_well_formed_small_and_needs_no_network(text):
    page = Page(text)
    assert len(text) < 5e6
    assert page.all("script") == page.all("link") == []
    pictures = page.all("img")
    assert 1 < len(pictures) <= 1 + 2 * report.MISTAKES + 6 * report.PAIRS
    assert all(picture["src"].startswith("data:image/") for picture in pictures)
    assert all(picture["alt"] for picture in pictures)
    assert not re.search("https?://", text)


def test_figures_are_those_of_the_result(text, dataset):
    result = made_up(dataset, 0.3, 40)
    page = Page(text)
    assert {"data/<test>", f"{result.topk(1):.2%}", "\\n", NASTY} <= set(page.text)
    (truth, _), count = analysis.confused_pairs(result)[0]
    assert f">{dataset.classes[truth]}</span> → " in text and f"<td>{count:,}</td>" in text
    shown = page.all("figure")
    assert 1 < len(shown) <= 1 + len(dataset.classes)  # the plots, and each character once


def test_a_faultless_result_and_a_single_sample(dataset, tmp_path):
    assert "No mistake was made" in write(tmp_path / "perfect", dataset, made_up(dataset, 1.0))
    one = Result(*(column[:1] for column in made_up(dataset, 0.0)))
    assert len(Page(write(tmp_path / "one", dataset, one)).all("figure")) == 2


def test_script_writes_it(data, trained, tmp_path):
    out = tmp_path / "report"
    done = call_script(
        "test.py", data / "test", "--checkpoint", trained / "best.pt", "--report", out
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"{out / 'report.html'}: open it in a browser"
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    for line in done.stdout.splitlines():
        assert line[12:] in page.text


def test_missing_matplotlib_is_said_at_once(data, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "evaluation.report", raising=False)
    monkeypatch.delattr(sys.modules["evaluation"], "report", raising=False)
    out = tmp_path / "report"
    done = call_script(
        "test.py", data / "test", "--checkpoint", trained / "best.pt", "--report", out
    )
    assert done.returncode == 2 and done.stdout == "" and not out.exists()
    assert done.stderr.count("\n") == 1 and "requirements-optional.txt" in done.stderr


@pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing())
def test_in_a_browser(text, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    with chromium.launch() as browser:
        for size, scheme in ((chromium.PHONE, "dark"), (chromium.DESKTOP, "light")):
            viewport = {"width": size[0], "height": size[1]}
            page = browser.new_page(viewport=viewport, color_scheme=scheme, offline=True)
            complaints: list[str] = []
            page.on("console", lambda message, to=complaints: to.append(message.text))
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth)")
            style = page.evaluate("getComputedStyle(document.querySelector('img')).filter")
            assert ("invert" in style) == (scheme == "dark")
            assert page.locator(".han").first.text_content() in [*CHARACTERS, NASTY]
            assert complaints == []
            page.close()
