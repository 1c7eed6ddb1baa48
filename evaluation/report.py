"""The report of a test, a self-contained HTML page: metrics, plots, confusions, mistakes.

    python test.py --report report/        # writes report/report.html

The page (template: report.html) needs no network access and no other file: plots (SVG by
matplotlib) and images are data URIs. Characters are shown as text and as images, because fonts may
be missing.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np

from evaluation import analysis
from evaluation.mistakes import Mistakes, code_point
from jobs.command import needs, printable
from jobs.files import write_file

try:
    import matplotlib
except ImportError as error:
    raise needs("--report", error) from None
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

PAIRS, MISTAKES = 20, 96  # shown on the page
STYLE = {"figure.facecolor": "none", "axes.facecolor": "none", "axes.grid": True}
ACCENT = "#b3261e"  # as on the page, which inverts images in dark mode


def write_report(folder: Path, figures: Sequence[tuple[str, str]], mistakes: Mistakes) -> Path:
    """Write report.html into a folder and return its path; `figures` are names and values."""
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        figures=table((escape(name), escape(printable(text))) for name, text in figures),
        plots=plots(mistakes),
        pairs=pairs(mistakes),
        mistakes="\n".join(gallery(mistakes)) or "<p>No mistake was made.</p>",
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_file(path, page.encode("utf-8", "backslashreplace"))
    return path


def image(glyph: np.ndarray, text: str) -> str:
    """Return a glyph as <img>, dark on light."""
    png = base64.b64encode(cv2.imencode(".png", 255 - glyph)[1]).decode()
    return f'<img src="data:image/png;base64,{png}" alt="{escape(text)}">'


def typical(mistakes: Mistakes, label: int) -> str:
    """Return a typical sample of a class as <img>."""
    return image(mistakes.of_class(label), f"a sample of {mistakes.classes[label]}")


def han(text: str) -> str:
    """Return a label as text, with its code point to hover over."""
    code = f' title="{code_point(text)}"' if len(text) == 1 else ""
    return f'<span class="han" lang="zh-Hans"{code}>{escape(text)}</span>'


def table(rows: Iterable[Iterable[str]]) -> str:
    """Return a table of HTML cells."""
    inner = "</tr>\n<tr>".join("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f'<div class="table" tabindex="0"><table><tr>{inner}</tr></table></div>'


def pairs(mistakes: Mistakes) -> str:
    """Return the most frequent confusions, with images of both characters."""
    result, names = mistakes.result, mistakes.classes
    rows = []
    for (truth, guess), count in analysis.confused_pairs(result)[:PAIRS]:
        misread = np.flatnonzero((result.labels == truth) & (result.top[:, 0] == guess))[:4]
        shown = "".join(image(mistakes.sample(row), f"misread {names[truth]}") for row in misread)
        samples = shown, typical(mistakes, truth), typical(mistakes, guess)
        cells = (f'<div class="pictures">{sample}</div>' for sample in samples)
        rows.append([f"{han(names[truth])} → {han(names[guess])}", f"{count:,}", *cells])
    return table(rows)


def gallery(mistakes: Mistakes) -> Iterator[str]:
    """Yield the most confident mistake of each character."""
    for row in mistakes.shown(MISTAKES):
        mistake = mistakes.mistake(row)
        guess = typical(mistakes, int(mistakes.result.top[row, 0]))
        yield (
            f"<figure>{image(mistakes.sample(row), 'input')}{guess}<figcaption>"
            f'{han(mistake.truth)} → <span class="wrong">{han(mistake.prediction)}</span> '
            f"{mistake.probability:.2%}<small>{escape(printable(Path(mistake.file).name))}"
            "</small></figcaption></figure>"
        )


def plots(mistakes: Mistakes) -> str:
    """Return accuracy by writer and over confidence, as an image."""
    result, stream = mistakes.result, io.BytesIO()
    writers = analysis.shares(result, mistakes.dataset.writers[result.indices])
    confidence, accuracy, samples = analysis.reliability(result)[0]
    with matplotlib.rc_context(STYLE):
        plot = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = plot.subplots(1, 2)
        left.plot([share.accuracy for share in writers], "o", color=ACCENT, markersize=3)
        left.set(title="By writer", xlabel="writers, from the hardest on", ylabel="top-1")
        right.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
        right.scatter(confidence, accuracy, 12 + 110 * samples / samples.max(), color=ACCENT)
        right.set(title="Calibration", xlabel="confidence", ylabel="accuracy")
        for axes in (left, right):
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        plot.savefig(stream, format="svg")
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="Accuracy by writer and confidence">'
