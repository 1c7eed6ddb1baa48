"""The network and the shipped weights for torch.hub.

    model = torch.hub.load("path/of/this/repository", "small", source="local")
    logits = model(inputs)              # (N,1,S,S) float32 in 0...1, see picture.to_glyph
    model.classes[logits.argmax(1)[0]]

A program may have modules of the same names, config.py or model.py for example; it keeps them.
"""

import contextlib as _contextlib
import os as _os
import sys as _sys

dependencies = ["torch"]


def small():
    """Return the network with the shipped weights, in eval mode.

    It has `classes` (label -> class) and `size` (S, side of a glyph in pixels).
    """
    # The imports are not above: torch.hub offers every function there as a model.
    with _own_modules():
        import checkpoint
        from config import DEFAULT_CHECKPOINT

        loaded = checkpoint.load(DEFAULT_CHECKPOINT)
        model = checkpoint.build_model(loaded).eval()
    model.classes, model.size = loaded["classes"], loaded["config"]["size"]
    return model


@_contextlib.contextmanager
def _own_modules():
    """Import this repository's modules, and leave none of them where the program would find it."""
    here = _os.path.dirname(_os.path.realpath(__file__))
    names = {entry.partition(".")[0] for entry in _os.listdir(here)}

    def take() -> dict:
        found = [name for name in _sys.modules if name.partition(".")[0] in names]
        return {name: _sys.modules.pop(name) for name in found}

    before = take()
    _sys.path.insert(0, here)
    try:
        yield
    finally:
        _sys.path.remove(here)
        take()
        _sys.modules.update(before)
