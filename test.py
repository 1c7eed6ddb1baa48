"""Evaluate a checkpoint on a test set.

    python test.py                                         # data/test, runs/train/best.pt
    python test.py --checkpoint runs/train/best.pt --json result.json
    python test.py ../scans/folder --errors mistakes/      # table and image of the mistakes
    python test.py competition.gnt --classes level1        # a .gnt file, level 1 only
    python test.py --compare checkpoints/small80.pt        # two checkpoints on the same samples
    python test.py data/test --temperature                 # for checkpoint.py --temperature
    python test.py data/test --no-characters scribbles/    # for checkpoint.py --reject

Without runs/train/best.pt, the shipped weights are tested. Images are read as predict.py reads
them, in float32. Samples of classes that are not read are skipped, counted and listed. Refused
images (blank or unreadable) count as errors in top-1, top-5 and top-10 only.
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
from jobs.files import write_file
from packing import open_pack
from picture import find_pictures
from recognizer import Recognizer, character_score

SOME = 5000  # samples that a temperature is fitted to, at most


class Test(NamedTuple):
    """Labelled samples and how they were read; labels are those of the classes that are read."""

    recognizer: Recognizer
    dataset: CharacterDataset
    result: Result


def score(path: Path, recognizer: Recognizer, classes: str, config: Config) -> Test:
    """Read the samples of a source."""
    network, known = recognizer.network, recognizer.classes
    print(printable(network.summary), file=sys.stderr)
    if len(known) < len(network.classes):
        print(f"--classes {classes}: {len(known)} are predicted", file=sys.stderr)
    pack = open_pack(path, network.size, config.workers)
    dataset = CharacterDataset(pack, size=network.size, classes=known, skip_unknown=True)
    if len(dataset) == 0:
        both = f"it has {shorten(pack.classes)}, the checkpoint reads {shorten(known)}"
        raise ValueError(f"{path}: no sample is of a class of the checkpoint; {both}")
    indices, size = np.arange(len(dataset)), config.batch_size
    print(f"data {printable(str(path))}: {dataset.describe(indices)}", file=sys.stderr)
    with progress(total=len(indices), unit=" images", desc="testing") as bar:
        result = evaluate(recognizer, dataset, indices, network.device, size, progress=bar.update)
    return Test(recognizer, dataset, result)


def fit_temperature(test: Test) -> float:
    """Return the temperature that fits the samples best."""
    chosen = test.result.indices[:: -(-len(test.result.indices) // SOME)]
    batches = read(test.recognizer, test.dataset, chosen, test.recognizer.network.device)
    logits = torch.cat([rows.cpu() for _, _, rows, _ in batches])[:, test.recognizer.labels]
    return calibration.fit_temperature(logits, torch.from_numpy(test.dataset.targets[chosen]))


def rejection(test: Test, pictures: list[Path]) -> dict:
    """Return how well energies tell characters from pictures that contain none."""
    bar = progress(pictures, desc="reading --no-characters", unit=" images")
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
        kept = character_score(characters, used) >= used["threshold"]
        rejected = character_score(others, used) < used["threshold"]
        figures |= {"kept": float(kept.mean()), "rejected": float(rejected.mean())}
    return figures


def compare(test: Test, other: Test) -> dict:
    """Return how two checkpoints compare on the samples that both read."""
    names = [[each.dataset.name(i) for i in each.result.indices.tolist()] for each in (test, other)]
    shared, mine, theirs = np.intersect1d(*names, assume_unique=True, return_indices=True)
    if len(shared) == 0:
        raise ValueError("--compare: the two checkpoints have no class of the data in common")
    right, right_other = test.result.correct[mine], other.result.correct[theirs]
    only = int((right & ~right_other).sum()), int((right_other & ~right).sum())
    writers = test.dataset.writers[test.result.indices[mine]]
    error, over = analysis.standard_error(right.astype(float) - right_other, writers)
    return {
        "checkpoint": other.recognizer.network.source,
        "samples": len(shared),
        "top1": float(right.mean()),
        "top1_other": float(right_other.mean()),
        "error": error,
        "error_over": over,
        "only_this": only[0],
        "only_other": only[1],
        "p_value": analysis.mcnemar(*only),
    }


def summarize(test: Test, path: Path) -> dict:
    """Return the figures of a test as plain values."""
    result, names, (pack,) = test.result, test.recognizer.classes, test.dataset.packs
    writers = test.dataset.writers[result.indices]
    by_writer = analysis.shares(result, writers)
    counts = np.bincount(pack.labels, minlength=len(pack.classes)).tolist()
    found = Counter(dict(zip(pack.classes, counts, strict=True))) + Counter(pack.refused)
    damaged, known = found.pop("", 0), set(names)
    refused = sum(pack.refused.get(label, 0) for label in names)
    samples = len(result.labels) + refused
    read = len(result.labels) / samples  # refused images count as wrong
    values = np.append(result.correct, np.zeros(refused))
    error, over = analysis.standard_error(values, np.append(writers, np.full(refused, -1)))
    return {
        "data": str(path),
        "checkpoint": test.recognizer.network.source,
        "samples": samples,
        "refused": refused,
        "unknown_classes": {label: n for label, n in found.items() if label not in known},
        "damaged": damaged,
        "classes": len(np.unique(result.labels)),
        "classes_read": len(names),
        "top1": result.topk(1) * read,
        "top1_error": error,
        "top1_error_over": over,
        "top5": result.topk(5) * read,
        "top10": result.topk(10) * read,
        "loss": result.loss,
        "ece": analysis.reliability(result)[1],
        "writers": len(by_writer),
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


def lines(figures: dict) -> list[tuple[str, str]]:
    """Return the figures of a test as name and text, for the terminal and the report."""
    over = f"(standard error over {figures['top1_error_over']})"
    counts = f"{figures['classes']} classes, out of {figures['classes_read']}"
    rows = [("checkpoint", figures["checkpoint"]), ("data", figures["data"])]
    rows.append(("samples", f"{figures['samples']:,} samples of {counts}"))
    if count := figures["refused"]:
        rows.append(("refused", f"{count:,} of them (blank, or unreadable); they count as wrong"))
    if unknown := figures["unknown_classes"]:
        what = f"{sum(unknown.values()):,} samples of {len(unknown)} classes that are not read"
        rows.append(("left out", f"{what}: {shorten(list(unknown))}"))
    if count := figures["damaged"]:
        rows.append(("damaged", f"{count:,} places of .gnt files"))
    rows.append(("top-1", f"{figures['top1']:.2%} ± {figures['top1_error']:.2%} {over}"))
    rows += [(f"top-{k}", f"{figures[f'top{k}']:.2%}") for k in (5, 10)]
    rows += [("loss", f"{figures['loss']:.4f}"), ("ECE", f"{figures['ece']:.2%}")]
    if compared := figures.get("comparison"):
        share, other, p = (compared[key] for key in ("top1", "top1_other", "p_value"))
        error = f"{compared['error']:.2%} (standard error over {compared['error_over']})"
        only = f"{compared['only_this']:,}, only by the other: {compared['only_other']:,}"
        verdict = "significant" if p < 0.05 else "no evidence of a difference"
        both = f"{compared['samples']:,} samples that both read"
        rows += [
            ("compared", f"with {compared['checkpoint']} on the {both}"),
            ("", f"{share:.2%} against {other:.2%}, difference {share - other:+.2%} ± {error}"),
            ("", f"right only by this one: {only}; McNemar's test: p = {p:.2g}, {verdict}"),
        ]
    if temperature := figures.get("temperature"):
        row = f"python checkpoint.py FILE NEW --temperature {temperature:.3f}"
        rows.append(("temperature", row))
    if found := figures.get("no_characters"):
        both = f"{found['characters']:,} characters against {found['others']:,} other images"
        rows.append(("rejection", f"AUROC {found['auroc']:.4f}, {both}"))
        if "kept" in found:
            whose = "the checkpoint's" if found["of_checkpoint"] else "the fitted"
            rates = f"{found['kept']:.2%} of the characters and rejects {found['rejected']:.2%}"
            rows.append(("", f"{whose} threshold keeps {rates} of the other images"))
        if fitted := found["fitted"]:
            numbers = " ".join(f"{v:.6g}" for v in fitted.values())
            rows.append(("", f"python checkpoint.py FILE NEW --reject {numbers}"))
        else:
            rows.append(("", "the other images look more like characters: no numbers to reject by"))
    if (count := figures["writers"]) > 1:
        worst = ", ".join(f"{w['writer']} {w['accuracy']:.1%}" for w in figures["worst_writers"])
        rows.append(("by writer", f"the lowest of {count}: {worst}"))
    pairs = [f"{p['truth']}→{p['guess']} {p['count']}" for p in figures["confused_pairs"][:10]]
    worst = [f"{c['character']} {c['accuracy']:.0%}" for c in figures["worst_classes"][:10]]
    rows += [("confused", "  ".join(pairs)), ("worst", "  ".join(worst))]
    return [row for row in rows if row[1]]


@command
def main(argv: list[str] | None = None) -> int:
    """Test as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on a test set.")
    parser.add_argument("path", nargs="?", default="data/test", type=Path,
        help="tree of class folders, .gnt file or folder of .gnt files "
        "(default: %(default)s)")  # fmt: skip
    what = parser.add_argument_group("what to test")
    add_reading(what)
    what.add_argument("--compare", metavar="FILE", help="second checkpoint to compare with")
    add = parser.add_argument_group("output").add_argument
    add("--json", metavar="FILE", help="write all metrics as JSON; -: to stdout, and nothing else")
    add("--errors", metavar="DIR", type=Path, help="write mistakes.csv and mistakes.png")
    add("--report", metavar="DIR", type=Path, help="write report.html, a report with plots")
    add("--temperature", action="store_true",
        help="fit a temperature on the data, for checkpoint.py --temperature")  # fmt: skip
    add("--no-characters", metavar="DIR", type=Path,
        help="fit and evaluate rejection of the images in DIR, which contain no character: AUROC, "
        "and the numbers for checkpoint.py --reject")  # fmt: skip
    add = parser.add_argument_group("evaluation").add_argument
    add("--batch-size", type=int, default=Config.batch_size, metavar="N",
        help="images per batch (default: %(default)s)")  # fmt: skip
    add_arguments(parser, ["workers", "device"])
    given = parser.parse_args(argv)
    if given.report:
        from evaluation.report import write_report  # fails at once without matplotlib
    config, classes = from_arguments(given), given.classes
    files = filter(None, [given.checkpoint or default_checkpoint(), given.compare])
    one, *others = (Recognizer.from_checkpoint(path, config.device, classes) for path in files)
    empty = find_pictures(given.no_characters)[0] if given.no_characters else []
    test = score(given.path, one, classes, config)
    figures = summarize(test, given.path)
    for other in others:
        figures["comparison"] = compare(test, score(given.path, other, classes, config))
    if given.temperature:
        figures["temperature"] = fit_temperature(test)
    if empty:
        figures["no_characters"] = rejection(test, empty)
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
