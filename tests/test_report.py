"""The report: self-contained, well-formed, small, and right; also in a real browser."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import browser as chromium
import pytest
from conftest import CHARACTERS, call_script, write_tree

import checkpoint
from hwdb.characters import folder_name

pytest.importorskip("matplotlib", reason="matplotlib is not there: requirements-optional.txt")
ODD = "a&lt;b"
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
def made(trained, tmp_path_factory) -> tuple[str, str]:
    """What test.py prints, and its report: 一 and a class of an odd name are confused."""
    root = tmp_path_factory.mktemp("report")
    loaded = checkpoint.load(trained / "best.pt")
    classes = [ODD if label == "口" else label for label in loaded["classes"]]
    checkpoint.save(root / "odd.pt", loaded["model"], loaded["config"], classes, {}, 1)
    tree = write_tree(root / "tree", range(1241, 1244))
    (tree / folder_name("一")).rename(tree / ODD)
    (tree / folder_name("口")).rename(tree / folder_name("一"))
    done = call_script("test.py", tree, "--checkpoint", root / "odd.pt", "--report", root / "new")
    assert done.returncode == 0, done.stderr
    path = root / "new" / "report.html"
    assert done.stderr.splitlines()[-1] == f"{path}: open it in a browser"
    return done.stdout, path.read_text(encoding="utf-8")


def test_page_is_well_formed_small_and_needs_no_network(made):
    page = Page(made[1])
    assert len(made[1]) < 5e6
    assert page.all("script") == page.all("link") == []
    pictures = page.all("img")
    assert len(pictures) > 1 and all(picture["alt"] for picture in pictures)
    assert all(picture["src"].startswith("data:image/") for picture in pictures)
    assert not re.search("https?://", made[1])


def test_page_has_the_figures_and_the_mistakes(made):
    page = Page(made[1])
    assert ODD in page.text
    for line in made[0].splitlines():
        assert line[12:] in page.text
    assert '>一</span> → <span class="han" lang="zh-Hans">a&amp;lt;b<' in made[1]
    assert 2 < len(page.all("figure")) <= 1 + len(CHARACTERS)  # the plots, each character once


def test_a_faultless_result_of_a_single_sample(trained, tmp_path):
    tree = write_tree(tmp_path / "tree", range(1), "一", 1)
    best = trained / "best.pt"
    done = call_script("test.py", tree, "--checkpoint", best, "--report", tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No mistake was made" in text and len(Page(text).all("figure")) == 1


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
def test_in_a_browser(made, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(made[1], encoding="utf-8")
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
            assert page.locator(".han").first.text_content() in [*CHARACTERS, ODD]
            assert complaints == []
            page.close()
