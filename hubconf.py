"""Entry point for torch.hub: the network with the shipped weights.

    model = torch.hub.load("path/of/this/repository", "small", source="local")
    logits = model(inputs)              # (N,1,S,S) float32 in 0...1, see picture.to_glyph
    model.classes[logits.argmax(1)[0]]

The calling program may have modules of the same names, such as config.py or model.py; they are not
replaced.
"""

import os
import sys

dependencies = ["torch"]


def small():
    """Return the network with the shipped weights, in eval mode.

    It has `classes` (label -> class) and `size` (S, side of a glyph in pixels).
    """
    here = os.path.dirname(os.path.realpath(__file__))
    names = {entry.partition(".")[0] for entry in os.listdir(here)}

    def take() -> dict:
        found = [name for name in sys.modules if name.partition(".")[0] in names]
        return {name: sys.modules.pop(name) for name in found}

    before = take()
    sys.path.insert(0, here)
    try:
        import checkpoint
        from config import DEFAULT_CHECKPOINT

        loaded = checkpoint.load(DEFAULT_CHECKPOINT)
        model = checkpoint.build_model(loaded).eval()
    finally:
        sys.path.remove(here)
        take()
        sys.modules.update(before)
    model.classes, model.size = loaded["classes"], loaded["config"]["size"]
    return model
