"""Measure a checkpoint on a test set.

    python test.py                                         # data/test, the newest own checkpoint
    python test.py --checkpoint runs/train/best.pt --json result.json
    python test.py ../scans/folder --errors mistakes/      # list and picture of the mistakes
    python test.py competition.gnt --classes level1        # a .gnt file; read level 1 alone
    python test.py --compare checkpoints/small80.pt        # two checkpoints on the same samples
    python test.py data/test --temperature                 # for checkpoint.py --temperature
    python test.py data/test --no-characters scribbles/    # for checkpoint.py --reject

The default checkpoint is runs/train/best.pt if there is one, else the shipped weights. Images are
read as predict.py reads them, in float32. Samples of classes that are not read are left out,
counted and named; refused images (blank, or unreadable) count as wrong. Results go to stdout,
notices to stderr.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import calibration
from config import Config, add_arguments, add_reading, default_checkpoint, from_arguments
from dataset import CharacterDataset
from evaluation import analysis
from evaluation.mistakes import Mistakes
from evaluation.score import Result, evaluate, read
from jobs.command import command, printable, progress, shorten
from jobs.devices import pick_device
from jobs.files import is_hidden, write_file
from packing import Pack, open_pack
from picture import PICTURE_SUFFIXES
from recognizer import Recognizer, character_score

SOME = 5000  # samples that a temperature is fitted to, at most


class Test(NamedTuple):
    """Labelled samples and how they were read; labels are those of the classes that are read."""

    recognizer: Recognizer
    pack: Pack
    dataset: CharacterDataset
    result: Result
    device: torch.device


def score(path: Path, checkpoint: str, classes: str, config: Config) -> Test:
    """Read the samples of a source with a checkpoint."""
    device = pick_device(config.device)
    recognizer = Recognizer.from_checkpoint(checkpoint, config.device, classes)
    network, known = recognizer.network, recognizer.classes
    print(printable(network.summary), file=sys.stderr)
    if len(known) < len(network.classes):
        print(f"--classes {classes}: {len(known)} of them are read", file=sys.stderr)
    pack = open_pack(path, network.size, config.workers)
    print(f"data {printable(pack.describe())}", file=sys.stderr)
    dataset = CharacterDataset(pack, size=network.size, classes=known, skip_unknown=True)
    if len(dataset) == 0:
        both = f"it has {shorten(pack.classes)}, the checkpoint reads {shorten(known)}"
        raise ValueError(f"{path}: no sample is of a class that is read; {both}")
    indices, size = np.arange(len(dataset)), config.batch_size
    with progress(total=len(indices), unit=" images", desc="testing") as bar:
        result = evaluate(recognizer, dataset, indices, device, size, progress=bar.update)
    return Test(recognizer, pack, dataset, result, device)


# --- figures


def fit_temperature(test: Test) -> float:
    """Return the temperature that fits the samples best."""
    chosen = test.result.indices[:: -(-len(test.result.indices) // SOME)]
    batches = read(test.recognizer, test.dataset, chosen, test.device)
    logits = torch.cat([rows.cpu() for _, _, rows in batches])[:, test.recognizer.labels]
    labels = torch.from_numpy(test.dataset.targets[chosen])
    return calibration.fit_temperature(logits, labels)


def rejection(test: Test, folder: Path) -> dict:
    """Return how well energies tell characters from the images of a folder without any.

    Rates are those of the checkpoint's numbers, without such of the fitted ones.
    """
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in PICTURE_SUFFIXES]
    paths = [p for p in paths if not any(map(is_hidden, p.relative_to(folder).parts))]
    if not paths:
        raise ValueError(f"{folder}: no images; expected some that contain no character")
    bar = progress(paths, desc=str(folder), unit=" images")
    found = [test.recognizer.recognize(path, top_k=1)[0] for path in bar]
    others = np.array([-np.inf if each.error else each.energy for each in found])
    characters = test.result.energies
    own, fitted = test.recognizer.network.reject, calibration.fit_rejection(characters, others)
    figures = {
        "characters": len(characters),
        "others": len(others),
        "auroc": calibration.auroc(characters, others),
        "fitted": fitted,  # None: no numbers tell them apart
        "of_checkpoint": own is not None,
    }
    if used := own or fitted:
        kept, missed = (
            float((character_score(energies, used) >= used["threshold"]).mean())
            for energies in (characters, others)
        )
        figures |= {"kept": kept, "rejected": 1 - missed}
    return figures


def compare(test: Test, other: Test) -> dict:
    """Return how two checkpoints compare on the samples that both read."""
    names = [[each.dataset.name(i) for i in each.result.indices.tolist()] for each in (test, other)]
    shared, mine, theirs = np.intersect1d(*names, assume_unique=True, return_indices=True)
    if len(shared) == 0:
        raise ValueError("--compare: the two checkpoints have no class of the data in common")
    writers = test.dataset.writers[test.result.indices[mine]]
    compared = analysis.compare(test.result.correct[mine], other.result.correct[theirs], writers)
    return {"checkpoint": other.recognizer.network.source} | compared


def unknown_classes(test: Test) -> dict[str, int]:
    """Return how many samples there are of each class that is not read."""
    pack, known = test.pack, {"", *test.recognizer.classes}
    counts = np.bincount(pack.labels, minlength=len(pack.classes)).tolist()
    found = Counter(dict(zip(pack.classes, counts, strict=True)))
    found.update(pack.refused)
    return {label: count for label, count in found.items() if label not in known}


def summarize(test: Test, path: Path) -> dict:
    """Return the figures of a test as plain values."""
    result, names = test.result, test.recognizer.classes
    writers = test.dataset.writers[result.indices]
    by_writer = analysis.shares(result, writers)
    accuracies = [share.accuracy for share in by_writer]
    refused = sum(test.pack.refused.get(label, 0) for label in names)
    samples = len(result.labels) + refused
    read = len(result.labels) / samples  # refused images count as wrong
    error, over = analysis.standard_error(result.correct, writers)
    return {
        "data": str(path),
        "checkpoint": test.recognizer.network.source,
        "samples": samples,
        "refused": refused,
        "unknown_classes": unknown_classes(test),
        "damaged": test.pack.refused.get("", 0),
        "classes": len(np.unique(result.labels)),
        "classes_read": len(names),
        "classes_of_checkpoint": len(test.recognizer.network.classes),
        "top1": result.topk(1) * read,
        "top1_error": error * read,
        "top1_error_over": over,
        "top5": result.topk(5) * read,
        "top10": result.topk(10) * read,
        "loss": result.loss,
        "ece": analysis.reliability(result)[1],
        "writers": len(by_writer),
        "writer_mean": float(np.mean(accuracies)) if by_writer else None,
        "writer_sd": float(np.std(accuracies, ddof=1)) if len(by_writer) > 1 else None,
        "worst_writers": [
            {"writer": test.dataset.writer_names[s.key], "accuracy": s.accuracy}
            for s in by_writer[:5]
        ],
        "confused_pairs": [
            {"truth": names[truth], "guess": names[guess], "count": count}
            for (truth, guess), count in analysis.confused_pairs(result)[:20]
        ],
        "worst_classes": [
            {"character": names[s.key], "accuracy": s.accuracy, "samples": s.samples}
            for s in analysis.shares(result, result.labels)[:20]
            if s.correct < s.samples
        ],
    }


# --- text


def sample_lines(figures: dict) -> list[str]:
    """Return what was counted and what was not, a sentence each."""
    classes, read = figures["classes"], figures["classes_read"]
    texts = [f"{figures['samples']:,} samples of {classes} classes, read among {read}"]
    if refused := figures["refused"]:
        texts.append(f"{refused:,} of them were refused (blank, or unreadable) and count as wrong")
    if unknown := figures["unknown_classes"]:
        what = f"{sum(unknown.values()):,} samples of {len(unknown)} classes that are not read"
        texts.append(f"left out: {what}: {shorten(list(unknown))}")
    if damaged := figures["damaged"]:
        texts.append(f"damaged: {damaged:,} places of .gnt files")
    return texts


def comparison_lines(figures: dict) -> list[str]:
    """Return the result of --compare, a sentence each."""
    share, other, error, p = (
        figures[key] for key in ("top1", "top1_other", "difference_error", "p_value")
    )
    only = f"{figures['only_this']:,}, only by the other: {figures['only_other']:,}"
    verdict = "significant" if p < 0.05 else "no evidence of a difference"
    return [
        f"with {figures['checkpoint']} on the {figures['samples']:,} samples that both read",
        f"{share:.2%} against {other:.2%}, difference {100 * (share - other):+.2f} ± "
        f"{100 * error:.2f} points (standard error over {figures['difference_error_over']})",
        f"read right only by this one: {only}; McNemar's test: p = {p:.2g}, {verdict}",
    ]


def rejection_lines(figures: dict) -> list[str]:
    """Return the result of --no-characters, a sentence each."""
    others = f"{figures['others']:,} images without a character"
    texts = [f"AUROC {figures['auroc']:.4f}, {figures['characters']:,} characters against {others}"]
    if "kept" in figures:
        whose = "the checkpoint's" if figures["of_checkpoint"] else "the fitted"
        rates = f"{figures['kept']:.2%} of the characters are kept, {figures['rejected']:.2%}"
        texts.append(f"at {whose} threshold {rates} of the other images are rejected")
    if fitted := figures["fitted"]:
        numbers = " ".join(f"{v:.6g}" for v in fitted.values())
        texts.append(f"fitted: python checkpoint.py FILE NEW --reject {numbers}")
    else:
        texts.append("the other images look more like characters: no numbers for --reject")
    return texts


def lines(figures: dict) -> list[tuple[str, str]]:
    """Return the figures of a test as name and text, for the terminal and the report."""
    over = f"(standard error over {figures['top1_error_over']})"
    rows = [("checkpoint", figures["checkpoint"]), ("data", figures["data"])]
    rows += [("samples", text) for text in sample_lines(figures)]
    rows.append(("top-1", f"{figures['top1']:.2%} ± {figures['top1_error']:.2%} {over}"))
    rows += [(f"top-{k}", f"{figures[f'top{k}']:.2%}") for k in (5, 10)]
    rows += [("loss", f"{figures['loss']:.4f}"), ("ECE", f"{figures['ece']:.2%}")]
    if "comparison" in figures:
        rows += [("compared", text) for text in comparison_lines(figures["comparison"])]
    if "temperature" in figures:
        value = f"{figures['temperature']:.3f}"
        rows.append(("temperature", f"python checkpoint.py FILE NEW --temperature {value}"))
    if "no_characters" in figures:
        rows += [("rejection", text) for text in rejection_lines(figures["no_characters"])]
    if (count := figures["writers"]) > 1:
        mean = f"{figures['writer_mean']:.2%} ± {figures['writer_sd']:.2%}"
        worst = ", ".join(f"{w['writer']} {w['accuracy']:.1%}" for w in figures["worst_writers"])
        text = f"{mean} (mean ± standard deviation of {count} writers); lowest: {worst}"
        rows.append(("by writer", text))
    pairs = [f"{p['truth']}→{p['guess']} {p['count']}" for p in figures["confused_pairs"][:10]]
    worst = [f"{c['character']} {c['accuracy']:.0%}" for c in figures["worst_classes"][:10]]
    rows += [("confused", "  ".join(pairs)), ("worst", "  ".join(worst))]
    return [row for row in rows if row[1]]


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Measure a checkpoint on a test set.")
    parser.add_argument("path", nargs="?", default="data/test", type=Path,
        help="tree of class folders, .gnt file or folder of such (default: data/test)")  # fmt: skip
    what = parser.add_argument_group("what to test")
    add_reading(what)
    what.add_argument("--compare", metavar="FILE", help="a second checkpoint, on the same samples")
    add = parser.add_argument_group("output").add_argument
    add("--json", metavar="FILE", help="write all figures; - for stdout only")
    add("--errors", metavar="DIR", type=Path, help="write mistakes.csv and mistakes.png")
    add("--report", metavar="DIR", type=Path, help="write report.html, a page with plots")
    # A training setting is called --temperature, too.
    add("--temperature", action="store_true", dest="find_temperature",
        help="fit a temperature to the data, for checkpoint.py --temperature")  # fmt: skip
    add("--no-characters", metavar="DIR", type=Path,
        help="tell the data from the images in DIR, which contain no character: AUROC, and the "
        "numbers for checkpoint.py --reject")  # fmt: skip
    add_arguments(parser, ["batch_size", "workers", "device"])
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Test as the command line says; return the exit status."""
    given = arguments().parse_args(argv)
    if given.report:
        from evaluation.report import write_report  # fails at once without matplotlib
    config = from_arguments(given)
    test = score(given.path, given.checkpoint or default_checkpoint(), given.classes, config)
    figures = summarize(test, given.path)
    if given.compare:
        other = score(given.path, given.compare, given.classes, config)
        figures["comparison"] = compare(test, other)
    if given.find_temperature:
        figures["temperature"] = fit_temperature(test)
    if given.no_characters:
        figures["no_characters"] = rejection(test, given.no_characters)
    text = json.dumps(figures, ensure_ascii=False, indent=1)
    if given.json == "-":
        print(text)
    else:
        print("\n".join(f"{name:<12}{printable(value)}" for name, value in lines(figures)))
        if given.json:
            write_file(given.json, f"{text}\n".encode("utf-8", "backslashreplace"))
    mistakes = Mistakes(test.result, test.dataset, test.recognizer.classes)
    if given.errors:
        print(printable(mistakes.write(given.errors)), file=sys.stderr)
    if given.report:
        path = write_report(given.report, lines(figures), mistakes)
        print(f"{printable(str(path))}: open it in a browser", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
