"""The network and the shipped weights for torch.hub.

    model = torch.hub.load("path/of/this/repository", "small", source="local")
    logits = model(glyphs)              # (N,1,S,S) float32 in 0...1, see picture.to_glyph
    model.classes[logits.argmax(1)[0]]

Untrained: torch.hub.load(..., pretrained=False, num_classes=10), with arguments of mobilenet_v3.
"""

dependencies = ["torch"]


def small(pretrained: bool = True, **arguments):
    """Return the network in eval mode: with the shipped weights, or untrained.

    With the shipped weights it has `classes` (label -> class) and `size` (S, side of a glyph in
    pixels). `arguments` are those of model.mobilenet_v3, for an untrained network alone.
    """
    # Not above: torch.hub would offer whatever stands there as a model.
    import checkpoint
    from config import DEFAULT_CHECKPOINT
    from model import mobilenet_v3

    if not pretrained:
        return mobilenet_v3("small", **arguments).eval()
    if arguments:
        raise ValueError(f"{', '.join(arguments)}: for untrained networks; give pretrained=False")
    loaded = checkpoint.load(DEFAULT_CHECKPOINT)
    model = checkpoint.build_model(loaded).eval()
    model.classes, model.size = loaded["classes"], loaded["config"]["size"]
    return model
