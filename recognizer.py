"""Recognize single characters with a checkpoint or an exported ONNX file.

    recognizer = Recognizer.from_checkpoint("checkpoints/small80.pt")
    recognizer.recognize("picture.png", top_k=3)      # [Readings]: the top 3 predictions

picture.proposals generates proposals of the character's ink; the network reads all of them and
`choose` picks one. PyTorch is imported for checkpoints only.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hwdb.characters import TWINS, select_classes
from jobs.command import needs, sentence, shorten
from picture import Proposals, changed_settings, find_proposals, fit, from_pillow, read_picture

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL import Image

    Picture = str | Path | np.ndarray | Image.Image

BATCH = 256  # glyphs
TEMPERATURE = 2.0  # of `choose`
# Parts of a long picture are characters if their mean energy is higher than the whole's by this.
APART = 1.0


class Reading(NamedTuple):
    """One reading of a picture; the probability is among the classes that are read."""

    character: str
    probability: float


class Readings(list[Reading]):
    """The readings of one picture, best first."""

    error = ""  # why the picture could not be read, a sentence; then there are no readings
    notices: Sequence[str] = ()  # sentences about the picture
    several = False  # whether the picture holds more characters
    proposal = 0  # index of the proposal that was read; 0: all ink
    energy = float("nan")  # of its logits, see the function of that name
    # `character_score` (see the function) and `is_character`, where the network can tell
    score: Mapping[str, float | bool] = {}


class Network(NamedTuple):
    """A loaded network.

    `logits` takes (B,1,S,S) float32 in 0...1, an array or a tensor, and returns such (B,K) float32.
    """

    logits: Callable[[Any], Any]
    size: int  # S
    classes: list[str]  # label -> class
    source: str  # the file
    reject: Mapping[str, float] | None = None  # see `character_score`
    top1: float | None = None  # on the validation samples of its training
    made: str = ""  # when the checkpoint was written: ISO 8601, UTC
    preprocessing: Mapping[str, float] | None = None  # picture.SETTINGS of its training
    device: str = "cpu"
    shipped: bool = False  # whether these are the shipped weights, or an export of them

    def __reduce__(self) -> tuple:
        """Pickle the file's path: the network is loaded anew, on the same device."""
        return load_network, (os.path.abspath(self.source), self.device)

    @property
    def summary(self) -> str:
        """One line for users: file, classes, validation top-1, time, changed preprocessing."""
        from config import DEFAULT_CHECKPOINT

        text = f"{self.source}: {len(self.classes)} classes"
        if self.shipped:
            text += ", the shipped weights"
        else:
            if self.top1 is not None:
                text += f", validation top-1 {100 * self.top1:.1f} %"
            if self.made:
                text += f", made {str(self.made)[:16].replace('T', ' ')} UTC"
            text += f"; the shipped weights: --checkpoint {DEFAULT_CHECKPOINT}"
        if changed := changed_settings(self.preprocessing):
            text += f"; trained with another preprocessing ({shorten(changed)}): train it again"
        return text


def load_network(path: str | Path, device: torch.device | str = "cpu") -> Network:
    """Load a checkpoint (.pt), or a file of export.py (.onnx), which runs on the CPU.

    `device` is auto, cpu, cuda, cuda:N or mps. Raises FileNotFoundError, or ValueError for what is
    no file of this repository, a missing package or device.
    """
    if str(path).endswith(".onnx"):
        return _load_onnx(path)
    try:
        import torch

        from checkpoint import build_model, load
        from config import DEFAULT_CHECKPOINT
        from jobs.devices import pick_device
    except ImportError as error:
        here, name = os.path.dirname(os.path.abspath(__file__)), error.name
        problem = f"needs the package {name}: pip install -r requirements.txt, or export it to ONNX"
        if os.path.exists(os.path.join(here, f"{name}.py")):
            problem = f"`import {name}` finds {error.path} instead of {name}.py of this repository"
            problem += f"; put {here} first on sys.path, or use torch.hub.load"
        raise ValueError(f"{path}: {problem}") from None
    loaded = load(path)
    model = build_model(loaded).eval()
    device = pick_device(str(device))
    model.to(device, memory_format=torch.channels_last)
    parent = os.getpid()

    @torch.inference_mode()
    def logits(x: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        if os.getpid() != parent:  # a forked child has none of the threads, and would wait for them
            torch.set_num_threads(1)
        if isinstance(x, torch.Tensor):
            return model(x)
        tensor = torch.from_numpy(x).to(device).contiguous(memory_format=torch.channels_last)
        return model(tensor).float().cpu().numpy()

    size, metrics = loaded["config"]["size"], loaded["metrics"]
    made = loaded.get("made_with", {}).get("time", "")
    known = metrics.get("reject"), metrics.get("top1"), made, loaded.get("preprocessing")
    shipped = os.path.abspath(path) == DEFAULT_CHECKPOINT
    return Network(logits, size, loaded["classes"], str(path), *known, str(device), shipped)


def open_session(path: str | Path):
    """Open an ONNX file with onnxruntime on the CPU, on as many threads as PyTorch would take."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; python export.py makes one")
    try:
        from onnxruntime import InferenceSession, SessionOptions
    except ImportError as error:
        raise needs(f"{path}: reading ONNX", error) from None
    options = SessionOptions()
    options.log_severity_level = 4  # we say it in a sentence
    # Threads that spin while they wait cost more than they gain: a tenth of predict.py's start.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if "torch" in sys.modules:
        options.intra_op_num_threads = sys.modules["torch"].get_num_threads()
    elif os.environ.get("OMP_NUM_THREADS", "").isdigit():
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    try:
        # The fallback is the same provider again, and prints to stdout.
        return InferenceSession(str(path), options, ["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime's own exceptions share no base class
        reason = str(error).splitlines()[0][:120]
        raise ValueError(f"{path}: not a readable ONNX file ({reason})") from None


def _load_onnx(path: str | Path) -> Network:
    @functools.cache  # one per process: a forked child has none of the threads of its parent's
    def session_of(process: int):
        return open_session(path)

    session = session_of(os.getpid())
    entry = session.get_inputs()[0]
    if entry.type != "tensor(float)":
        reason = "takes pictures (--input picture), for programs of their own"
        raise ValueError(f"{path}: {reason}; expected a file of export.py --input glyph")

    def logits(x: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        if isinstance(x, np.ndarray):
            return session_of(os.getpid()).run(["logits"], {entry.name: x})[0]
        import torch

        return torch.from_numpy(logits(x.cpu().contiguous().numpy()))

    metadata = session.get_modelmeta().custom_metadata_map
    try:
        names = ("config", "classes", "reject", "metrics", "preprocessing", "shipped", "made_with")
        known = {name: json.loads(metadata.get(name, "null")) for name in names}
        size, classes, reject = known["config"]["size"], known["classes"], known["reject"]
        if reject is not None:
            reject = {key: float(reject[key]) for key in ("scale", "offset", "threshold")}
        found = logits(np.zeros((1, 1, size, size), np.float32))
        different = {name for name in classes if isinstance(name, str)}
        if found.shape != (1, len(classes)) or len(different) < len(classes):
            raise ValueError(f"logits are {found.shape}, different classes {len(different)}")
    except Exception as error:  # onnxruntime's own exceptions share no base class
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise ValueError(f"{path}: not a file that export.py writes ({reason})") from None
    top1, made = (known["metrics"] or {}).get("top1"), (known["made_with"] or {}).get("time", "")
    known = reject, top1, made, known["preprocessing"], "cpu", bool(known["shipped"])
    return Network(logits, size, classes, str(path), *known)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities (B,K) of logits (B,K)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def energy(logits: np.ndarray) -> np.ndarray:
    """Return how far logits (B,K) stand out, (B,): log(sum(exp(logits))) less their mean.

    What all logits have in common says nothing: training leaves it free.
    """
    highest = logits.max(1)
    return highest + np.log(np.exp(logits - highest[:, None]).sum(1)) - logits.mean(1)


def character_score(energies: np.ndarray, reject: Mapping[str, float]) -> np.ndarray:
    """Return how much pictures look like characters the network knows, (B,) in 0...1.

    It is the logistic of energies (B,) over all classes. `reject` is that of a checkpoint's
    metrics: `scale`, `offset`, and `threshold`, from which on it is a character.
    """
    return 1 / (1 + np.exp(-(reject["scale"] * energies + reject["offset"])))


def choose(logits: np.ndarray, priors: np.ndarray) -> int:
    """Return which proposal of a picture to read, from logits (P,K) and `Proposals.priors` (P,).

    A proposal speaks for a class with exp(score). The score is the logit less the mean of all
    logits, so that a proposal which looks like no character hardly counts, plus the prior. The
    class with the largest sum wins, and of its proposals the one with the highest score.
    """
    scores = logits - logits.mean(1, keepdims=True) + priors[:, None]
    scores /= TEMPERATURE
    best = np.exp(scores - scores.max()).sum(0).argmax()
    return int(scores[:, best].argmax())


class Recognizer:
    """Read pictures of single characters.

    A picture is a path, a Pillow image, or an array: (h,w), (h,w,3) BGR or (h,w,4) BGRA; uint8,
    uint16, bool, or float in 0...1. Dark on light or light on dark, scan or photo.

    `classes` are read alone (see hwdb.characters.select_classes); probabilities are then among
    them. Where all are read, symbols that look like a Chinese character, as "-" and 一 do, are read
    as that character. Raises ValueError if the network knows none of the classes.
    """

    def __init__(self, network: Network, classes: str = "all") -> None:
        self.network = network
        known = set(select_classes(classes) or network.classes)
        labels = [label for label, name in enumerate(network.classes) if name in known]
        if not labels:
            raise ValueError(f"--classes {classes}: {network.source} knows none of them")
        self.labels = np.array(labels)
        self.classes = [network.classes[label] for label in labels]  # that are read
        self.twins = _chinese_twins(self.classes) if classes == "all" else []

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: torch.device | str = "cpu", classes: str = "all"
    ) -> Recognizer:
        """Load a checkpoint or an exported ONNX file; see `load_network` and the class."""
        return cls(load_network(path, device), classes)

    def find(self, picture: Picture, notices: list[str] | None = None) -> Proposals:
        """Return the proposals of what the character of a picture is.

        `notices` gets sentences about what of the file is not read. Raises FileNotFoundError, or
        ValueError if it is no picture, blank or too large.
        """
        name = ""
        if isinstance(picture, (str, os.PathLike)):
            name, picture = f"{picture}: ", read_picture(picture, notices)
        elif hasattr(picture, "getbands"):
            picture = from_pillow(picture)
        elif not isinstance(picture, np.ndarray):
            given = type(picture).__name__
            raise ValueError(f"{given} is no picture; expected a path, an array or a Pillow image")
        try:
            return find_proposals(picture, self.network.size)
        except ValueError as error:
            raise ValueError(f"{name}{error}") from None

    def read(self, found: Sequence[Proposals], top_k: int = 10) -> list[Readings]:
        """Read pictures by their proposals, one of which is chosen for each."""
        if not found:
            return []
        logits = self._logits(np.concatenate([proposals.glyphs for proposals in found]))
        if not np.isfinite(logits).all():
            raise ValueError(f"{self.network.source}: its logits are not finite")
        parts = np.split(logits, np.cumsum([len(proposals.glyphs) for proposals in found])[:-1])
        chosen = [choose(part, one.priors) for part, one in zip(parts, found, strict=True)]
        logits = np.stack([part[i] for part, i in zip(parts, chosen, strict=True)])
        answer = []
        for i, probabilities in enumerate(softmax(self.select(logits))):
            best = np.argsort(-probabilities, kind="stable")[:top_k]
            readings = Readings(Reading(self.classes[k], float(probabilities[k])) for k in best)
            readings.proposal, readings.energy = chosen[i], float(energy(logits[i : i + 1])[0])
            if reject := self.network.reject:
                score = round(float(character_score(readings.energy, reject)), 6)
                is_character = score >= reject["threshold"]
                readings.score = {"character_score": score, "is_character": is_character}
            answer.append(readings)
        return answer

    def _logits(self, glyphs: np.ndarray) -> np.ndarray:
        """Return the logits (B,K) of glyphs (B,S,S) uint8."""
        parts = (glyphs[at : at + BATCH, None] for at in range(0, len(glyphs), BATCH))
        logits = [self.network.logits(part.astype(np.float32) / 255) for part in parts]
        return np.concatenate(logits)

    def _notices_of_more(self, found: Proposals, readings: Readings) -> list[str]:
        """Return a notice if a picture holds more characters than the one that was read."""
        if found.holds_more(readings.proposal):
            return ["the picture holds more characters; the one in the middle is read"]
        if parts := found.parts(readings.proposal):
            energies = energy(self._logits(np.stack([fit(p, self.network.size) for p in parts])))
            if energies.mean() > readings.energy + APART:
                return ["the picture seems to hold several characters; crop it to one"]
        return []

    def select(self, logits: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """Return the logits (B,k) of the classes that are read, from those (B,K) of all.

        Of twins the Chinese character gets the probability of all, its symbols next to nothing. An
        array for an array, a tensor for a tensor.
        """
        add = np.logaddexp
        if not isinstance(logits, np.ndarray):
            import torch

            add = torch.logaddexp
        logits = logits[:, self.labels]
        for chinese, symbols in self.twins:
            for symbol in symbols:
                logits[:, chinese] = add(logits[:, chinese], logits[:, symbol])
                logits[:, symbol] = logits[:, chinese] - 20
        return logits

    def recognize(self, pictures: Picture | Iterable[Picture], top_k: int = 10) -> list[Readings]:
        """Read pictures; what cannot be read has an error instead of readings, in its place.

        One picture alone is taken as a list of one.
        """
        one = isinstance(pictures, (str, os.PathLike)) or hasattr(pictures, "shape")
        if one or not isinstance(pictures, Iterable):
            pictures = [pictures]
        answer, places, found = [], [], []
        for place, picture in enumerate(pictures):
            answer.append(Readings())
            answer[place].notices = notices = []
            try:
                found.append(self.find(picture, notices))
                places.append(place)
            except (ValueError, OSError) as error:
                answer[place].error = sentence(error)
        read = self.read(found, top_k)
        for place, proposals, readings in zip(places, found, read, strict=True):
            more = self._notices_of_more(proposals, readings)
            readings.notices, readings.several = [*answer[place].notices, *more], bool(more)
            answer[place] = readings
        return answer


def _chinese_twins(classes: Sequence[str]) -> list[tuple[int, list[int]]]:
    """Return the places in a list of classes of Chinese characters and of symbols like them."""
    place = {name: number for number, name in enumerate(classes)}
    twins = []
    for chinese, *others in TWINS:
        if chinese in place and (symbols := [place[name] for name in others if name in place]):
            twins.append((place[chinese], symbols))
    return twins
