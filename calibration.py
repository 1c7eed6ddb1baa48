"""Changes to the weights of a checkpoint without training, and the fits for them.

    average(loaded, other, 0.3)              # 0.7 of one and 0.3 of another (model soup)
    scale_logits(loaded, 0.6)                # temperature scaling; test.py --temperature finds T
    add_prior(loaded, "symbols", -4.8)       # class prior
    set_rejection(loaded, 0.8, -11.8, 0.6)   # test.py --no-characters finds the numbers
    transfer(model, classes, loaded)         # initialize a model with other classes

`loaded` is the dict of checkpoint.load and is changed in place. `python checkpoint.py FILE NEW`
with --average, --temperature, --class-prior and --reject applies them in this order.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from config import ARCHITECTURE

# metrics["reject"] and its ranges, see recognizer.character_score
REJECT = {"scale": (0, 1e9), "offset": (-1e9, 1e9), "threshold": (0, 1)}
KEPT = 0.985  # share of the characters above the fitted threshold


def average(loaded: dict, other: Mapping, share: float) -> None:
    """Move the weights by a share in 0...1 towards those of another checkpoint, in place.

    Both should have been trained from the same weights (Wortsman et al. 2022, "Model soups"). Rows
    of classes that the other does not have stay. All metrics go: they are of other weights.
    Raises ValueError if the networks differ.
    """
    if not 0 < share < 1:
        raise ValueError(f"--average: the share is {share}, expected above 0, below 1")
    differing = [k for k in ("size", *ARCHITECTURE) if loaded["config"][k] != other["config"][k]]
    if differing not in ([], ["dropout"]):
        raise ValueError(f"--average: the networks differ in {', '.join(differing)}")
    weights, _ = convert(other, loaded["model"], loaded["classes"])
    for name, tensor in loaded["model"].items():
        if tensor.is_floating_point():
            loaded["model"][name] = tensor.lerp(weights[name], share)
    loaded["metrics"] = {}


def scale_logits(loaded: dict, temperature: float) -> None:
    """Divide the logits by a temperature, in the last layer; their order does not change."""
    if not 0 < temperature < 100:
        raise ValueError(f"--temperature is {temperature}, expected above 0, below 100")
    for name in ("classifier.3.weight", "classifier.3.bias"):
        loaded["model"][name] = loaded["model"][name] / temperature
    kept = {key: value for key, value in loaded["metrics"].items() if key != "reject"}
    loaded["metrics"] = kept | {"temperature": temperature * kept.get("temperature", 1.0)}


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature, 0.05 to 20, with the lowest cross-entropy (Guo et al. 2017).

    The loss of logits (n,K) and labels (n,) is convex in 1 / T: golden-section search.
    """

    def loss(log_temperature: float) -> float:
        return float(nn.functional.cross_entropy(logits * math.exp(-log_temperature), labels))

    low, high, golden = -math.log(20), math.log(20), (math.sqrt(5) - 1) / 2
    while high - low > 0.002:
        one, two = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, two) if loss(one) < loss(two) else (one, high)
    return math.exp((low + high) / 2)


def add_prior(loaded: dict, spec: str, amount: float) -> None:
    """Add an amount to the logits of classes, `spec` as of --classes: a prior of exp(amount)."""
    from hwdb.characters import select_classes

    chosen = set(select_classes(spec, "--class-prior") or loaded["classes"])
    rows = torch.tensor([label in chosen for label in loaded["classes"]])
    loaded["model"]["classifier.3.bias"] = loaded["model"]["classifier.3.bias"] + amount * rows
    loaded["metrics"] = {k: v for k, v in loaded["metrics"].items() if k != "reject"}


def set_rejection(loaded: dict, *numbers: float) -> None:
    """Store scale, offset and threshold of the score that tells characters from other images."""
    check_rejection(reject := dict(zip(REJECT, numbers, strict=True)))
    loaded["metrics"] = loaded["metrics"] | {"reject": reject}


def check_rejection(reject: object) -> None:
    """Raise ValueError if `reject` is not a scale >= 0, an offset and a threshold in 0...1."""
    if not isinstance(reject, dict) or set(reject) != set(REJECT):
        raise ValueError(f"reject is {reject!r}, expected {', '.join(REJECT)}")
    for key, (low, high) in REJECT.items():
        if type(reject[key]) not in (int, float) or not low <= reject[key] <= high:
            raise ValueError(f"reject: {key} is {reject[key]!r}, expected {low:g} to {high:g}")


def fit_rejection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float] | None:
    """Fit a logistic regression of the energy: characters (n,) against other images (m,).

    Both sides have the same total weight. The threshold keeps `KEPT` of the characters. Blank
    images, of energy -inf, are left out. Returns None if characters do not have more energy.
    """
    outside = outside[np.isfinite(outside)]
    if not len(outside) or inside.mean() <= outside.mean():
        return None
    x = torch.from_numpy(np.concatenate([inside, outside])).double()
    middle, spread = x.mean(), x.std()
    truth = torch.arange(len(x)) < len(inside)
    weight = torch.where(truth, 1 / len(inside), 1 / len(outside))
    line = torch.zeros(2, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = (x - middle) / spread * line[0] + line[1]
        value = nn.functional.binary_cross_entropy_with_logits(
            logits, truth.double(), weight, reduction="sum"
        )
        value = value + 1e-5 * line.square().sum()  # finite where the two do not overlap
        value.backward()
        return value

    optimizer.step(loss)
    slope, height = line.tolist()
    scale = slope / float(spread)
    offset = height - scale * float(middle)
    lowest = scale * float(np.quantile(inside, 1 - KEPT)) + offset
    return {"scale": scale, "offset": offset, "threshold": 1 / (1 + math.exp(-lowest))}


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the probability that a character has more energy than another image; ties are 1/2."""
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    return float(below.mean() / 2 / len(outside))


def transfer(model: nn.Module, classes: Sequence[str], loaded: Mapping) -> int:
    """Copy a checkpoint's weights into a model with other classes.

    Rows of the classifier are copied for shared labels; rows of new labels stay as they are.
    Returns the number of shared labels. Raises ValueError if the networks differ in more than that.
    """
    weights, shared = convert(loaded, model.state_dict(), classes)
    model.load_state_dict(weights)
    return shared


def convert(
    loaded: Mapping, target: dict[str, Tensor], classes: Sequence[str]
) -> tuple[dict[str, Tensor], int]:
    """Return a checkpoint's weights as a state dict of `target`'s shapes, and the shared labels."""
    source = dict(loaded["model"])
    row = {label: i for i, label in enumerate(loaded["classes"])}
    shared = [(i, row[label]) for i, label in enumerate(classes) if label in row]
    here, there = torch.tensor(shared, dtype=torch.int64).reshape(-1, 2).unbind(1)
    for name in ("classifier.3.weight", "classifier.3.bias"):
        if source[name].shape[1:] == target[name].shape[1:]:
            rows = source[name][there].to(target[name])
            source[name] = target[name].index_copy(0, here.to(rows.device), rows)
    shapes, wanted = ({k: t.shape for k, t in part.items()} for part in (source, target))
    if shapes != wanted:
        mend = "give the same --variant, --width and --head as the checkpoint"
        raise ValueError(f"--init-from: the networks differ; {mend}")
    return source, len(shared)
