"""Measure a checkpoint on a test set.

    python test.py                                         # data/test, the newest of your own runs
    python test.py --checkpoint runs/train/best.pt --json result.json
    python test.py ../scans/folder --errors mistakes/      # CSV and a picture sheet of the mistakes
    python test.py competition.gnt --classes level1        # a .gnt file; read level 1 alone
    python test.py data/test --temperature                 # for checkpoint.py --temperature
    python test.py data/test --no-characters scribbles/    # for checkpoint.py --reject

Without --checkpoint it is runs/train/best.pt if there is one, else the shipped weights. Samples of
classes that are not read are left out, counted and named; pictures that were refused (blank, or no
picture) count as not read. Results go to stdout, notices to stderr. Nothing is trained here.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from config import Config, add_arguments, add_reading, default_checkpoint, from_arguments
from dataset import CharacterDataset
from evaluation import analysis, rejection
from evaluation.mistakes import Mistakes
from evaluation.score import Result, evaluate
from hwdb.characters import TWINS
from jobs.command import command, printable, progress, shorten
from jobs.devices import pick_device
from jobs.files import write_file
from model import to_input
from packing import Pack, open_pack
from recognizer import Recognizer


class Test(NamedTuple):
    """Labelled data and how they were read; labels are those of the classes that are read."""

    recognizer: Recognizer
    pack: Pack
    glyphs: CharacterDataset
    result: Result
    logits: Callable[[Tensor], Tensor]  # input (B,1,S,S) -> (B, classes that are read)
    device: torch.device


def score(given: argparse.Namespace, config: Config) -> Test:
    """Read the data as the command line says."""
    device = pick_device(config.device)
    path = given.checkpoint or default_checkpoint()
    recognizer = Recognizer.from_checkpoint(path, config.device, given.classes)
    network, classes = recognizer.network, recognizer.classes
    print(printable(network.summary), file=sys.stderr)
    if len(classes) < len(network.classes):
        print(f"--classes {given.classes}: {len(classes)} of them are read", file=sys.stderr)
    pack = open_pack(given.path, network.size, config.workers)
    print(f"data {pack.describe()}", file=sys.stderr)
    glyphs = CharacterDataset(pack, size=network.size, classes=classes, skip_unknown=True)
    indices = np.arange(len(glyphs))
    if len(indices) == 0:
        both = f"it has {shorten(pack.classes)}, the checkpoint reads {shorten(classes)}"
        raise ValueError(f"{given.path}: no sample is of a class that is read; {both}")
    read = torch.from_numpy(recognizer.labels).to(device)

    def logits(x: Tensor) -> Tensor:
        return network.logits(x)[:, read.to(x.device)]

    with progress(total=len(indices), unit=" images", desc="testing") as bar:
        result = evaluate(logits, glyphs, indices, device, config.batch_size, progress=bar.update)
    return Test(recognizer, pack, glyphs, result, logits, device)


def some(test: Test, most: int = 5000) -> np.ndarray:
    """Return the indices of at most that many samples, taken evenly."""
    known = test.result.indices
    return known[:: -(-len(known) // most)]


def fitting_temperature(test: Test) -> float:
    """Return the temperature that fits the data best."""
    chosen = some(test)
    batches = test.glyphs.batches(np.array_split(chosen, -(-len(chosen) // 256)))
    with torch.inference_mode():
        parts = [(test.logits(to_input(x, test.device)).float().cpu(), y) for x, y in batches]
    return analysis.fit_temperature(*map(torch.cat, zip(*parts, strict=True)))


def rejection_figures(test: Test, folder: str) -> dict:
    """Return how well the network tells its characters from pictures that hold none."""
    glyphs = test.glyphs.fetch(some(test))[0].cpu().numpy()
    inside = rejection.energies(test.recognizer, glyphs)
    outside = rejection.folder_energies(test.recognizer, folder)
    return rejection.summarize(inside, outside, test.recognizer.network.reject)


def unknown_classes(test: Test) -> dict[str, int]:
    """Return how many samples there are of each class that is not read."""
    pack, read = test.pack, {"", *test.recognizer.classes}
    counts = np.bincount(pack.labels, minlength=len(pack.classes)).tolist()
    found = Counter(dict(zip(pack.classes, counts, strict=True)))
    found.update(pack.refused)
    return {label: count for label, count in found.items() if label not in read}


def summarize(test: Test, path: str) -> dict:
    """Return the figures of a test as plain values."""
    result, name = test.result, test.recognizer.classes
    writers = [share.accuracy for share in analysis.by_writer(result, test.glyphs.writers)]
    refused = sum(test.pack.refused.get(label, 0) for label in name)
    samples = len(result.labels) + refused
    read = len(result.labels) / samples  # what was refused counts as not read
    top1 = result.topk(1) * read
    error, over = analysis.standard_error(
        analysis.correct(result), test.glyphs.writers[result.indices]
    )
    return {
        "data": path,
        "checkpoint": test.recognizer.network.source,
        "samples": samples,
        "refused": refused,
        "unknown_classes": unknown_classes(test),
        "damaged": test.pack.refused.get("", 0),
        "classes": len(np.unique(result.labels)),
        "classes_read": len(name),
        "classes_of_checkpoint": len(test.recognizer.network.classes),
        "top1": top1,
        "top1_error": error * read,
        "top1_error_over": over,
        "top1_twins": float(analysis.correct_or_twin(result, name, TWINS).mean()) * read,
        "top5": result.topk(5) * read,
        "top10": result.topk(10) * read,
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
    print(f"checkpoint  {printable(figures['checkpoint'])}")
    print(f"data        {printable(figures['data'])}")
    for line in analysis.sample_lines(figures):
        print(line)
    over = f"(standard error over {figures['top1_error_over']})"
    print(f"top-1       {figures['top1']:.2%} ± {figures['top1_error']:.2%} {over}")
    if figures["top1_twins"] > figures["top1"]:
        print(f"  twins     {figures['top1_twins']:.2%}, those no picture tells apart being right")
    print(f"top-5       {figures['top5']:.2%}")
    print(f"top-10      {figures['top10']:.2%}")
    print(f"loss        {figures['loss']:.4f}")
    print(f"ECE         {figures['ece']:.2%}")
    if "temperature" in figures:
        print(f"temperature {figures['temperature']:.3f}")
    if "no_characters" in figures:
        print_rejection(figures["no_characters"])
    if (count := figures["writers"]) > 1:
        shares = f"{figures['writer_mean']:.2%} ± {figures['writer_sd']:.2%}"
        print(f"by writer   {shares} (mean ± standard deviation of {count} writers)")
    if pairs := figures["confused_pairs"][:10]:
        text = "  ".join(f"{p['truth']}→{p['guess']} {p['count']}" for p in pairs)
        print(f"confused    {printable(text)}")
    if worst := figures["worst_classes"][:10]:
        text = "  ".join(f"{c['character']} {c['accuracy']:.0%}" for c in worst)
        print(f"worst       {printable(text)}")


def print_rejection(figures: dict) -> None:
    """Print how well characters and others are told apart."""
    print(f"AUROC       {figures['auroc']:.4f}, characters against {figures['others']:,} others")
    whose = "the checkpoint's" if figures["of_checkpoint"] else "the fitted"
    told = f"{figures['told']:.2%} of the others are told, at {whose} threshold"
    print(f"kept        {figures['kept']:.2%} of the characters, {told}")
    print("fitted      --reject " + " ".join(f"{v:.6g}" for v in figures["fitted"].values()))


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Measure a checkpoint on a test set.")
    parser.add_argument("path", nargs="?", default="data/test",
        help="tree of class folders, .gnt file or folder of such (default: data/test)")  # fmt: skip
    what = parser.add_argument_group("what to test")
    add_reading(what)
    add = parser.add_argument_group("output").add_argument
    add("--json", metavar="FILE", help="write all figures; - for stdout only")
    add("--errors", metavar="DIR", help="write mistakes.csv and mistakes.png")
    add("--report", metavar="DIR", help="write report.html, a page with plots")
    # A training setting has the name of --temperature.
    add("--temperature", action="store_true", dest="find_temperature",
        help="find what fits these data best, for checkpoint.py --temperature")  # fmt: skip
    add("--no-characters", metavar="DIR",
        help="tell the data from the pictures of this folder, which hold no character: AUROC, and "
        "the numbers for checkpoint.py --reject")  # fmt: skip
    add_arguments(parser, ["batch_size", "workers", "device"])
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Test as the command line says; return the exit status."""
    given = arguments().parse_args(argv)
    if given.report:
        from evaluation.report import write_report  # says at once if matplotlib is missing
    test = score(given, from_arguments(given))
    figures = summarize(test, str(given.path))
    if given.find_temperature:
        figures["temperature"] = fitting_temperature(test)
    if given.no_characters:
        figures["no_characters"] = rejection_figures(test, given.no_characters)
    if given.json != "-":
        print_summary(figures)
    text = json.dumps(figures, ensure_ascii=False, indent=1)
    if given.json == "-":
        print(text)
    elif given.json:
        write_file(given.json, f"{text}\n".encode("utf-8", "backslashreplace"))
    mistakes = Mistakes(test.result, test.glyphs, test.recognizer.classes)
    if given.errors:
        mistakes.write(Path(given.errors))
    if given.report:
        write_report(Path(given.report), figures, mistakes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
