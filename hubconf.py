"""The network and the shipped weights for torch.hub.

    model = torch.hub.load("path/of/this/repository", "small", source="local")
    logits = model(inputs)              # (N,1,S,S) float32 in 0...1, see picture.to_glyph
    model.classes[logits.argmax(1)[0]]

Untrained: torch.hub.load(..., pretrained=False, num_classes=10), with arguments of mobilenet_v3.
A program may have modules of the same names, config.py or model.py for example; it keeps them.
"""

import contextlib as _contextlib
import os as _os
import sys as _sys
from importlib.machinery import PathFinder as _PathFinder

dependencies = ["torch"]


def small(pretrained: bool = True, **arguments):
    """Return the network in eval mode: with the shipped weights, or untrained.

    With the shipped weights it has `classes` (label -> class) and `size` (S, side of a glyph in
    pixels). `arguments` are those of model.mobilenet_v3, for an untrained network only.
    """
    # The imports are not above: torch.hub offers every function there as a model.
    with _own_modules():
        import checkpoint
        from config import DEFAULT_CHECKPOINT
        from model import mobilenet_v3

        if not pretrained:
            return mobilenet_v3("small", **arguments).eval()
        if arguments:
            names = ", ".join(arguments)
            raise ValueError(f"{names}: for untrained networks only; give pretrained=False")
        loaded = checkpoint.load(DEFAULT_CHECKPOINT)
        model = checkpoint.build_model(loaded).eval()
    model.classes, model.size = loaded["classes"], loaded["config"]["size"]
    return model


@_contextlib.contextmanager
def _own_modules():
    """Import this repository's modules, and afterwards none that hides one of the program."""
    here = _os.path.dirname(_os.path.realpath(__file__))
    names = {entry.partition(".")[0] for entry in _os.listdir(here)}

    elsewhere = [path for path in _sys.path if _os.path.realpath(path) != here]

    def take() -> dict:
        found = [name for name in _sys.modules if name.partition(".")[0] in names]
        return {name: _sys.modules.pop(name) for name in found}

    before = take()
    _sys.path.insert(0, here)
    try:
        yield
    finally:
        _sys.path.remove(here)
        for name, module in take().items():
            if not _PathFinder.find_spec(name.partition(".")[0], elsewhere):
                _sys.modules[name] = module
        _sys.modules.update(before)
