"""Measure a checkpoint on a test set.

    python test.py                                         # data/test, the shipped weights
    python test.py --checkpoint runs/train/best.pt --json result.json
    python test.py ../scans/folder --errors mistakes/      # CSV and a picture sheet of the mistakes
    python test.py competition.gnt                         # a .gnt file or a folder of them
    python test.py data/test --temperature                 # for checkpoint.py --temperature

Data with some of the checkpoint's classes is scored among all of the checkpoint's classes. Results
go to stdout, notices to stderr. Nothing is trained or tuned here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from config import DEFAULT_CHECKPOINT, add_arguments, from_arguments
from dataset import GlyphSet, open_pack
from evaluation import analysis
from evaluation.mistakes import Mistakes
from evaluation.score import Result, evaluate
from model import to_input
from recognizer import Network, load_network
from training.devices import pick_device, pick_dtype


def score(given: argparse.Namespace) -> tuple[Network, GlyphSet, Result, int]:
    """Return network, data, result, and the number of samples of unknown classes left out."""
    config = from_arguments(given)
    device = pick_device(config.device)
    network = load_network(given.checkpoint, device)
    print(f"checkpoint {network.source}: {len(network.classes)} classes", file=sys.stderr)
    pack = open_pack(given.path, network.size, config.workers or None)
    print(f"data {pack.describe()}", file=sys.stderr)
    try:
        glyphs = GlyphSet([pack], network.classes, given.skip_unknown)
    except ValueError as error:
        raise ValueError(f"{error}; --skip-unknown leaves them out") from None
    indices = np.flatnonzero(glyphs.labels >= 0)
    if len(indices) == 0:
        raise ValueError(f"{given.path}: no sample is of a class that the checkpoint knows")
    with tqdm(
        total=len(indices), unit=" images", desc="testing", disable=not sys.stderr.isatty()
    ) as bar:
        result = evaluate(
            network.logits,
            glyphs,
            indices,
            device,
            pick_dtype(config.amp, device),
            config.batch_size,
            progress=bar.update,
        )
    return network, glyphs, result, len(glyphs) - len(indices)


def temperature(given: argparse.Namespace, network: Network, glyphs: GlyphSet) -> float:
    """Return the temperature that fits these data best, from at most 5,000 samples of them."""
    device = pick_device(from_arguments(given).device)
    known = np.flatnonzero(glyphs.labels >= 0)
    chosen = known[:: -(-len(known) // 5000)]
    with torch.inference_mode():
        parts = [
            (network.logits(to_input(images, device)).float().cpu(), labels)
            for images, labels in glyphs.batches(np.array_split(chosen, -(-len(chosen) // 256)))
        ]
    logits, labels = map(torch.cat, zip(*parts, strict=True))
    return analysis.fit_temperature(logits, labels)


def summarise(
    given: argparse.Namespace, network: Network, glyphs: GlyphSet, result: Result, skipped: int
) -> dict:
    """Return the figures of a test as plain values."""
    writers = [share.accuracy for share in analysis.by_writer(result, glyphs.writers)]
    name = network.classes
    return {
        "data": str(given.path),
        "checkpoint": network.source,
        "samples": len(result.labels),
        "skipped_unknown": skipped,
        "unreadable": len(glyphs.packs[0].problems),
        "classes": len(np.unique(result.labels)),
        "classes_of_checkpoint": len(name),
        "top1": result.topk(1),
        "top5": result.topk(5),
        "top10": result.topk(10),
        "loss": result.loss,
        "ece": analysis.calibration(result)[1],
        "writers": len(writers),
        "writer_mean": float(np.mean(writers)) if writers else None,
        "writer_sd": float(np.std(writers, ddof=1)) if len(writers) > 1 else None,
        "confused_pairs": [
            {"truth": name[p.truth], "guess": name[p.guess], "count": p.count}
            for p in analysis.confused_pairs(result)[:20]
        ],
        "worst_classes": [
            {"character": name[s.key], "accuracy": s.accuracy, "samples": s.samples}
            for s in analysis.worst_classes(result)[:20]
            if s.correct < s.samples
        ],
    }


def print_summary(figures: dict) -> None:
    """Print the figures of a test."""
    print(f"data        {figures['data']}")
    print(f"checkpoint  {figures['checkpoint']}")
    print(
        f"samples     {figures['samples']:,} of {figures['classes']} classes, scored among "
        f"{figures['classes_of_checkpoint']}"
    )
    for key in ("skipped_unknown", "unreadable"):
        if figures[key]:
            print(f"left out    {figures[key]:,} {key.replace('_', ' ')}")
    for k in (1, 5, 10):
        print(f"{f'top-{k}':<12}{figures[f'top{k}']:.2%}")
    print(f"loss        {figures['loss']:.4f}")
    print(f"ECE         {figures['ece']:.2%}")
    if "temperature" in figures:
        print(f"temperature {figures['temperature']:.3f}")
    if figures["writers"] > 1:
        print(
            f"by writer   {figures['writer_mean']:.2%} ± {figures['writer_sd']:.2%} "
            f"(mean ± standard deviation of {figures['writers']} writers)"
        )
    if pairs := figures["confused_pairs"][:10]:
        text = "  ".join(f"{p['truth']}→{p['guess']} {p['count']}" for p in pairs)
        print(f"confused    {text}")
    if worst := figures["worst_classes"][:10]:
        text = "  ".join(f"{c['character']} {c['accuracy']:.0%}" for c in worst)
        print(f"worst       {text}")


def write_errors(folder: Path, mistakes: Mistakes) -> None:
    """Write mistakes.csv, all of them, and mistakes.png, the first 200."""
    folder.mkdir(parents=True, exist_ok=True)
    mistakes.write_csv(folder / "mistakes.csv")
    mistakes.write_sheet(folder / "mistakes.png")
    print(f"{len(mistakes):,} mistakes: {folder / 'mistakes.csv'}", file=sys.stderr)


def write_json(path: str, figures: dict) -> None:
    """Write the figures, whole or not at all; - is stdout."""
    text = json.dumps(figures, ensure_ascii=False, indent=1)
    if path == "-":
        print(text)
        return
    temporary = f"{path}.part"
    Path(temporary).write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def main(argv: list[str] | None = None) -> int:
    """Test as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description="Measure a checkpoint on a test set.")
    parser.add_argument(
        "path",
        nargs="?",
        default="data/test",
        help="tree of class folders, .gnt file or folder of them (default: data/test)",
    )
    what = parser.add_argument_group("what to test")
    what.add_argument(
        "--checkpoint",
        default=DEFAULT_CHECKPOINT,
        metavar="FILE",
        help="checkpoint (.pt) or exported network (.onnx) (default: the shipped weights)",
    )
    what.add_argument(
        "--skip-unknown",
        action="store_true",
        help="leave out samples of classes that the checkpoint does not know, and say how many",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write all figures; - for stdout only")
    output.add_argument("--errors", metavar="DIR", help="write mistakes.csv and mistakes.png")
    output.add_argument("--report", metavar="DIR", help="write report.html, a page with plots")
    output.add_argument(
        "--temperature",
        action="store_true",
        dest="find_temperature",  # a training setting has the name
        help="find the temperature that fits these data best, for checkpoint.py --temperature",
    )
    add_arguments(parser, ["batch_size", "workers", "device", "amp"])
    given = parser.parse_args(argv)
    try:
        if given.report:
            from evaluation.report import (
                write_report,  # matplotlib is optional; say at once if it is missing
            )
        network, glyphs, result, skipped = score(given)
        figures = summarise(given, network, glyphs, result, skipped)
        if given.find_temperature:
            figures["temperature"] = temperature(given, network, glyphs)
        if given.json != "-":
            print_summary(figures)
        if given.json:
            write_json(given.json, figures)
        if given.errors:
            write_errors(Path(given.errors), Mistakes(result, glyphs, network.classes))
        if given.report:
            write_report(Path(given.report), figures, network.classes, glyphs, result)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # UTF-8 also into a file on Windows; names of files need not be UTF-8 (old Chinese archives).
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.exit(main())
