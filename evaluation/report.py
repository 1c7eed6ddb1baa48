"""A test as one self-contained HTML page: figures, plots, confusions, mistakes.

    python test.py --report report/        # writes report/report.html

The page (report.html is its template) needs no network and no other file: plots are inline SVG by
matplotlib, pictures are data URIs. Characters are shown as text and as pictures, for machines
without a Chinese font.
"""

import base64
import io
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np

from evaluation import analysis
from evaluation.mistakes import Mistakes
from jobs.command import needs, printable
from jobs.files import write_file

try:
    import matplotlib
except ImportError as error:
    raise needs("--report", error) from None
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

PAIRS, MISTAKES = 20, 96  # shown on the page
SIDE = 64  # pixels of a picture, at most
# Colours that stand for the page's own, so that one plot suits a light and a dark page.
INK, SOFT, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
VARIABLES = {INK: "--text", SOFT: "--soft", LINE: "--line", ACCENT: "--accent"}
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}
TEMPLATE = Path(__file__).with_name("report.html")


def write_report(folder: Path, figures: Mapping, notes: list[str], mistakes: Mistakes) -> Path:
    """Write report.html into a folder and return its path.

    `figures` are those of test.py's summarize, `notes` sentences about the data and the network.
    """
    about = f"Data {figures['data']}, checkpoint {figures['checkpoint']}. "
    about += f"± is the standard error over {figures['top1_error_over']}."
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=f"Test of {escape(printable(Path(figures['checkpoint']).name))}",
        about=escape(printable(about)),
        cards=cards(figures),
        notes="\n".join(f"<p>{escape(printable(note))}</p>" for note in notes),
        writers=writers(mistakes),
        pairs=pairs(mistakes),
        mistakes="\n".join(gallery(mistakes)) or "<p>No mistake was made.</p>",
        ece=f"{figures['ece']:.2%}",
        plots=reliability_plot(mistakes) + coverage_plot(mistakes),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_file(path, page.encode("utf-8", "backslashreplace"))
    return path


def cards(figures: Mapping) -> str:
    """Return the main figures."""
    shown = {
        "top-1": f"{figures['top1']:.2%} ± {figures['top1_error']:.2%}",
        "top-1, twins counted as right": f"{figures['top1_twins']:.2%}",
        "top-5": f"{figures['top5']:.2%}",
        "top-10": f"{figures['top10']:.2%}",
        "calibration error (ECE)": f"{figures['ece']:.2%}",
        "cross-entropy": f"{figures['loss']:.4f}",
        "samples": f"{figures['samples']:,}",
        "classes in the data": f"{figures['classes']:,} of {figures['classes_read']:,}",
    }
    return "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in shown.items())


# --- pictures, characters, tables


def image(glyph: np.ndarray, text: str) -> str:
    """Return a glyph as <img>, dark on light."""
    if len(glyph) > SIDE:
        glyph = cv2.resize(glyph, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    png = base64.b64encode(cv2.imencode(".png", 255 - glyph)[1]).decode()
    return f'<img src="data:image/png;base64,{png}" alt="{escape(text)}">'


def typical(mistakes: Mistakes, label: int) -> str:
    """Return a typical sample of a class as <img>."""
    return image(mistakes.of_class(label), f"a sample of {mistakes.classes[label]}")


def han(text: str) -> str:
    """Return a label as text, with its code point to hover over."""
    code = f' title="U+{ord(text):04X}"' if len(text) == 1 else ""
    return f'<span class="han" lang="zh-Hans"{code}>{escape(text)}</span>'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of HTML cells."""
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    inner = "</tr>\n<tr>".join(lines)
    return f'<div class="table" tabindex="0"><table><tr>{inner}</tr></table></div>'


def pairs(mistakes: Mistakes) -> str:
    """Return the most frequent confusions, with pictures of both characters."""
    result, names = mistakes.result, mistakes.classes
    rows = []
    for truth, guess, count in analysis.confused_pairs(result)[:PAIRS]:
        misread = np.flatnonzero((result.labels == truth) & (result.top[:, 0] == guess))[:4]
        text = f"{names[truth]} read as {names[guess]}"
        shown = "".join(image(mistakes.sample(row), text) for row in misread)
        samples = shown, typical(mistakes, truth), typical(mistakes, guess)
        cells = (f'<div class="pictures">{sample}</div>' for sample in samples)
        rows.append([f"{han(names[truth])} → {han(names[guess])}", f"{count:,}", *cells])
    return table(["confusion", "times", "misread", "truth", "prediction"], rows) if rows else ""


def gallery(mistakes: Mistakes) -> Iterable[str]:
    """Yield the most confident mistake of each character."""
    for row in mistakes.shown(MISTAKES):
        mistake = mistakes.mistake(row)
        file = Path(mistakes.dataset.name(int(mistakes.result.indices[row]))).name
        yield (
            f"<figure>{image(mistakes.sample(row), 'input')}"
            f"{typical(mistakes, int(mistakes.result.top[row, 0]))}<figcaption>{han(mistake.truth)}"
            f' → <span class="wrong">{han(mistake.prediction)}</span> {mistake.probability:.2%}'
            f"<small>{escape(printable(file))}</small></figcaption></figure>"
        )


# --- plots


def figure(plot: Figure, name: str, text: str, kind: str = "") -> str:
    """Return a plot as inline SVG in the page's colours; `text` describes it."""
    stream = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        plot.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[\w.]+_\d+">', "<g>", svg)  # not unique among several plots
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(text)}" ', 1)
    return f'<figure class="{kind}">{svg}</figure>'


def axes(width: float, height: float, xlabel: str, ylabel: str, shares: str = "xy") -> tuple:
    """Return a figure and its axes; axes named in `shares` are in percent."""
    with matplotlib.rc_context(STYLE):
        plot = Figure(figsize=(width, height))
        part = plot.subplots()
        part.set_axisbelow(True)
        part.set(xlabel=xlabel, ylabel=ylabel)
        for axis in shares:
            getattr(part, f"{axis}axis").set_major_formatter(PercentFormatter(1))
    return plot, part


def writers(mistakes: Mistakes) -> str:
    """Return the accuracy of every writer, worst first, as a plot."""
    shares = analysis.by_writer(mistakes.result, mistakes.dataset.writers)
    shares.sort(key=lambda share: share.accuracy)
    if len(shares) < 2:
        return "<p>The file names tell fewer than two writers.</p>"
    accuracy = np.array([share.accuracy for share in shares])
    mean, spread = accuracy.mean(), accuracy.std(ddof=1)
    plot, part = axes(9, 2.9, "writers, from the hardest to the easiest", "top-1", "y")
    at = np.arange(len(shares)) + 1
    part.axhline(mean, color=SOFT, linewidth=1, linestyle="--")
    part.plot(at, accuracy, "o", color=ACCENT, markersize=max(2.5, 6 - len(at) / 40))
    part.set_xlim(0, len(at) + 1)
    part.xaxis.get_major_locator().set_params(integer=True)
    names = mistakes.dataset.writer_names
    hardest = ", ".join(f"{escape(names[s.key])} {s.accuracy:.2%}" for s in shares[:5])
    text = f"{len(shares)} writers, {mean:.2%} ± {spread:.2%} (mean ± standard deviation, dashed: "
    text += f"mean). Hardest: {hardest}."
    return f"<p>{text}</p>{figure(plot, 'writers', f'Top-1 of {len(shares)} writers', 'wide')}"


def reliability_plot(mistakes: Mistakes) -> str:
    """Return accuracy over confidence; the area of a dot grows with its number of samples."""
    plot, part = axes(4.6, 3.4, "confidence", "accuracy")
    confidence, accuracy, samples = np.array(analysis.reliability(mistakes.result)[0]).T
    part.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--")
    part.vlines(confidence, confidence, accuracy, color=ACCENT, linewidth=1.2)
    part.scatter(confidence, accuracy, s=12 + 110 * samples / samples.max(), color=ACCENT)
    part.set(xlim=(0, 1.04), ylim=(0, 1.04))
    return figure(plot, "reliability", "Reliability diagram: accuracy over confidence")


def coverage_plot(mistakes: Mistakes) -> str:
    """Return accuracy over coverage, without the first few samples, which are noise."""
    coverage, accuracy = analysis.coverage(mistakes.result)
    plot, part = axes(4.6, 3.4, "share that is read", "accuracy among them")
    first = min(len(coverage) - 1, max(20, len(coverage) // 50))
    at = np.unique(np.linspace(first, len(coverage) - 1, 300).astype(int))
    part.plot(coverage[at], accuracy[at], color=ACCENT, linewidth=2)
    part.set_xlim(0, 1.02)
    return figure(plot, "coverage", "Accuracy among the samples that are read, over their share")
