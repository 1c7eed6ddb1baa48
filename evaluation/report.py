"""A test as one self-contained HTML page: figures, plots, and pictures of what went wrong.

    python test.py --report report/        # writes report/report.html

Plots are inline SVG by matplotlib, pictures are data URIs: the page needs no network and no other
file. Characters stand as text and as pictures, for machines whose fonts lack them. Galleries are
limited, so that the page stays below a few megabytes; test.py --errors writes all mistakes.
Left out: any figure that analysis.py does not make.
"""

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path

import cv2
import numpy as np

from evaluation import analysis
from evaluation.mistakes import Mistakes
from evaluation.score import Result
from jobs.command import needs, printable
from jobs.files import write_file

try:
    import matplotlib
except ImportError as error:
    raise needs("--report", error) from None
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

PAIRS, WORST, MISTAKES = 20, 20, 96  # shown on the page
SIDE = 64  # px of a picture, at most
THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
TARGETS = (0.99, 0.995, 0.999)  # accuracies for which a threshold is given
LEAST_COVERAGE = 0.05
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
CSS = Path(__file__).with_name("report.css")


def write_report(folder: Path, figures: dict, mistakes: Mistakes) -> Path:
    """Write report.html into a folder and return its path; `figures` as of test.py's summarize."""
    sections = [
        headline(figures),
        writers_section(mistakes),
        confidence_section(mistakes.result),
        rejection_section(figures.get("no_characters")),
        pairs_section(mistakes),
        worst_section(mistakes),
        mistakes_section(mistakes),
    ]
    title = f"Test of {escape(Path(figures['checkpoint']).name)}"
    css = CSS.read_text(encoding="utf-8")
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{css}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_file(path, page.encode("utf-8", "backslashreplace"))
    return path


# --- pictures and characters


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


def table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers: set[int]) -> str:
    """Return a table of HTML cells; columns in `numbers` are set right."""

    def cell(kind: str, column: int, content: str) -> str:
        return f"<{kind}{' class=number' if column in numbers else ''}>{content}</{kind}>"

    lines = ["".join(cell("th", i, text) for i, text in enumerate(head))]
    lines += ["".join(cell("td", i, text) for i, text in enumerate(row)) for row in rows]
    inner = "</tr>\n<tr>".join(lines)
    return f'<div class="table" tabindex="0"><table><tr>{inner}</tr></table></div>'


# --- plots


def figure(plot: Figure, name: str, text: str, kind: str = "") -> str:
    """Return a plot as inline SVG in the page's colours; `text` says what it shows."""
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
    """Return a figure and its axes; axes named in `shares` show per cent."""
    with matplotlib.rc_context(STYLE):
        plot = Figure(figsize=(width, height))
        part = plot.subplots()
        part.set_axisbelow(True)
        part.set(xlabel=xlabel, ylabel=ylabel)
        for axis in shares:
            getattr(part, f"{axis}axis").set_major_formatter(PercentFormatter(1))
    return plot, part


# --- sections


def headline(figures: dict) -> str:
    """Return what was measured, and the main figures."""
    cards = {"top-1": f"{figures['top1']:.2%} ± {figures['top1_error']:.2%}"}
    if figures["top1_twins"] > figures["top1"]:
        cards["top-1, twins counted as right"] = f"{figures['top1_twins']:.2%}"
    cards |= {
        "top-5": f"{figures['top5']:.2%}",
        "top-10": f"{figures['top10']:.2%}",
        "calibration error (ECE)": f"{figures['ece']:.2%}",
        "cross-entropy": f"{figures['loss']:.4f}",
        "samples": f"{figures['samples']:,}",
        "classes in the data": f"{figures['classes']:,}",
        "classes that are read": f"{figures['classes_read']:,}",
    }
    text = f"Data {figures['data']}, checkpoint {figures['checkpoint']}. "
    # "samples     5 of 2 classes" -> "5 of 2 classes": the cards have their own names.
    text += "; ".join(line.partition(" ")[2].strip() for line in analysis.sample_lines(figures))
    text = escape(printable(f"{text}. ± is the standard error over {figures['top1_error_over']}."))
    shown = "".join(
        f"<div><b>{value}</b><span>{name}</span></div>" for name, value in cards.items()
    )
    return f'<p>{text}</p>\n<div class="cards">{shown}</div>'


def writers_section(mistakes: Mistakes) -> str:
    """Return the accuracy of every writer, worst first, as a plot."""
    title, glyphs = "<h2>By writer</h2>", mistakes.glyphs
    shares = analysis.by_writer(mistakes.result, glyphs.writers)
    shares.sort(key=lambda share: share.accuracy)
    if len(shares) < 2:
        return f"{title}<p>The file names tell of fewer than two writers.</p>"
    accuracy = np.array([share.accuracy for share in shares])
    mean, spread = accuracy.mean(), accuracy.std(ddof=1)
    plot, part = axes(9, 2.9, "writers, from the hardest to the easiest", "top-1", "y")
    at = np.arange(len(shares)) + 1
    part.axhline(mean, color=SOFT, linewidth=1, linestyle="--")
    part.plot(at, accuracy, "o", color=ACCENT, markersize=max(2.5, 6 - len(at) / 40))
    part.set_xlim(0, len(at) + 1)
    part.xaxis.get_major_locator().set_params(integer=True)
    hardest = (f"{escape(glyphs.writer_names[s.key])} {s.accuracy:.2%}" for s in shares[:5])
    return (
        f"{title}<p>{len(shares)} writers, {mean:.2%} ± {spread:.2%} (mean ± standard deviation; "
        f"dashed: mean). Hardest: {', '.join(hardest)}.</p>"
        + figure(plot, "writers", f"Top-1 of {len(shares)} writers, mean {mean:.2%}", "wide")
    )


def confidence_section(result: Result) -> str:
    """Return the reliability diagram and what a reject threshold buys."""
    bins, ece = analysis.calibration(result)
    threshold, coverage, accuracy = analysis.coverage(result)
    points, rows = "", []
    for target in TARGETS:
        enough = np.flatnonzero((accuracy >= target) & (coverage >= LEAST_COVERAGE))[-1:]
        for at in enough:
            limit, read = threshold[at], coverage[at]
            points += f"For {target:.1%} right, refuse below {limit:.4f}: {read:.1%} are read. "
    for limit in THRESHOLDS:
        if accepted := int((threshold >= limit).sum()):
            read, right = accepted / len(threshold), accuracy[accepted - 1]
            wrong = round(accepted * (1 - right))
            rows.append([f"{limit:g}", f"{read:.2%}", f"{right:.2%}", f"{wrong:,}"])
    return (
        "<h2>Confidence</h2><p>Left: how often a reading of some confidence is right; on the "
        f"diagonal, confidence can be taken at its word (ECE {ece:.2%}). Right: how many are "
        "right among those that are read, if the least confident are refused.</p>"
        f'<div class="pair">{reliability_plot(bins)}{coverage_plot(coverage, accuracy)}</div>'
        f"<p>{points}</p>"
        + table(["refuse below", "read", "right among them", "mistakes left"], rows, {0, 1, 2, 3})
    )


def reliability_plot(bins: list[analysis.Bin]) -> str:
    """Return accuracy over confidence, the dots as large as their bins are full."""
    plot, part = axes(4.6, 3.4, "confidence", "share read right")
    confidence, accuracy, samples = np.array(bins).T
    part.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--")
    part.vlines(confidence, confidence, accuracy, color=ACCENT, linewidth=1.2)
    part.scatter(confidence, accuracy, s=12 + 110 * samples / samples.max(), color=ACCENT)
    part.set(xlim=(0, 1.04), ylim=(0, 1.04))
    return figure(plot, "reliability", "Reliability diagram: share read right over confidence")


def coverage_plot(coverage: np.ndarray, accuracy: np.ndarray) -> str:
    """Return accuracy over coverage, without the first few samples, which are noise."""
    plot, part = axes(4.6, 3.4, "share that is read", "share right among them")
    first = min(len(coverage) - 1, max(20, len(coverage) // 50))
    at = np.unique(np.linspace(first, len(coverage) - 1, 300).astype(int))
    part.plot(coverage[at], accuracy[at], color=ACCENT, linewidth=2)
    part.set_xlim(0, 1.02)
    return figure(plot, "coverage", "Share right among those read, over the share that is read")


def rejection_section(figures: dict | None) -> str:
    """Return how well characters are told from pictures that hold none."""
    if figures is None:
        return ""
    plot, part = axes(4.6, 3.4, "share of the characters that is kept", "share of the others told")
    part.plot(*np.array(figures["curve"]).T, color=ACCENT, linewidth=2)
    part.plot([figures["kept"]], [figures["told"]], "o", color=SOFT)
    part.set(xlim=(0, 1.02), ylim=(0, 1.02))
    text = "Share of pictures without a character that is told, over the share of characters kept"
    whose = "checkpoint's" if figures["of_checkpoint"] else "fitted"
    return (
        f"<h2>No character</h2><p>{figures['characters']:,} characters against "
        f"{figures['others']:,} pictures that hold none: AUROC {figures['auroc']:.4f}. Dot: at the "
        f"{whose} threshold {figures['kept']:.2%} of the characters are kept and "
        f"{figures['told']:.2%} of the others told.</p>" + figure(plot, "rejection", text)
    )


def pairs_section(mistakes: Mistakes) -> str:
    """Return the most frequent confusions, with pictures of both characters."""
    result, names = mistakes.result, mistakes.classes
    pairs = analysis.confused_pairs(result)
    title = "<h2>Most confused</h2>"
    if not pairs:
        return f"{title}<p>No mistake was made.</p>"
    rows = []
    for truth, guess, count in pairs[:PAIRS]:
        misread = np.flatnonzero((result.labels == truth) & (result.top[:, 0] == guess))[:4]
        text = f"{names[truth]} read as {names[guess]}"
        shown = "".join(image(mistakes.sample(row), text) for row in misread)
        samples = shown, typical(mistakes, truth), typical(mistakes, guess)
        cells = (f'<div class="pictures">{sample}</div>' for sample in samples)
        rows.append([f"{han(names[truth])} → {han(names[guess])}", f"{count:,}", *cells])
    head = ["truth → reading", "times", "misread", "a sample of the truth", "and of the reading"]
    note = f"{len(pairs):,} different confusions in all."
    return f"{title}<p>{note}</p>" + table(head, rows, {1})


def worst_section(mistakes: Mistakes) -> str:
    """Return the characters that are read worst, and as what."""
    result, names = mistakes.result, mistakes.classes
    shares = [share for share in analysis.worst_classes(result) if share.correct < share.samples]
    rows = []
    for share in shares[:WORST]:
        label, right, samples = share
        wrong = (result.labels == label) & (result.top[:, 0] != label)
        guesses = Counter(result.top[wrong, 0].tolist()).most_common(4)
        read = ", ".join(f"{han(names[guess])} {count}" for guess, count in guesses)
        picture = f'<div class="pictures">{typical(mistakes, label)}</div>'
        accuracy = f"{share.accuracy:.2%}"
        rows.append([han(names[label]), picture, accuracy, f"{right:,} of {samples:,}", read])
    head = ["character", "a sample", "top-1", "right", "read instead"]
    note = f"<h2>Worst characters</h2><p>{len(shares):,} classes have mistakes.</p>"
    return note + table(head, rows, {2, 3}) if rows else ""


def mistakes_section(mistakes: Mistakes) -> str:
    """Return the mistakes that the network was surest of."""
    result, cells = mistakes.result, []
    for row, mistake in zip(mistakes.rows[:MISTAKES], mistakes, strict=False):
        name = mistakes.glyphs.name(int(result.indices[row]))
        read = typical(mistakes, int(result.top[row, 0]))
        cells.append(
            f"<figure>{image(mistakes.sample(row), 'input')}{read}<figcaption>{han(mistake.truth)}"
            f' → <span class="wrong">{han(mistake.prediction)}</span> {mistake.probability:.2%}'
            f"<small>{escape(printable(Path(name).name))}</small></figcaption></figure>"
        )
    if not cells:
        return ""
    return (
        f"<h2>Mistakes</h2><p>The {len(cells)} most confident of {len(mistakes):,}: the input, and "
        "a sample of the character it was taken for. Some are mistakes of the data.</p>"
        f'<div class="gallery">{"".join(cells)}</div>'
    )
