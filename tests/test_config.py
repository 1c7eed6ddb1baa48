"""Settings: their bounds, their types, and how they are given."""

import argparse
from dataclasses import fields

import pytest

from config import Config, add_arguments, from_arguments, from_dict

# Of each setting the last values that are allowed, and the first beyond.
BOUNDS = {
    "val_fraction": ((0, 0.999), (-0.001, 1)),
    "size": ((16, 512), (15, 513)),
    "workers": ((0,), (-1,)),
    "variant": (("small", "large"), ("medium",)),
    "width": ((0.01, 8), (0.009, 8.001)),
    "stem_stride": ((1, 2), (0, 3)),
    "head": ((0, 8192), (-1, 8193)),
    "batch_size": ((1,), (0,)),
    "lr": ((1e-9,), (0,)),
    "warmup": ((0, 1), (-0.001, 1.001)),
    "ema": ((0, 0.9999), (1,)),
    "amp": (("auto", "fp32", "bf16", "fp16"), ("fp8",)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name):
    allowed, refused = BOUNDS[name]
    for value in allowed:
        assert getattr(Config(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is {value!r}, expected"):
            Config(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", 80.0, "a whole number"), ("size", True, "a whole number"),
        ("lr", "0.1", "a number"), ("lr", True, "a number"), ("lr", float("nan"), "a number"),
        ("lr", float("inf"), "a number"), ("resume", 1, "true or false"), ("out", 5, "a text"),
        ("data", "data/train", "texts"), ("data", ("a", 1), "texts"), ("data", ["a"], "texts"),
    ],
)  # fmt: skip
def test_types(name, value, message):
    with pytest.raises(ValueError, match=f"--{name} is .*, expected {message}"):
        Config(**{name: value})


def test_a_config_goes_through_its_dict():
    config = Config(data=("a", "b@3"), lr=1, resume=True)
    values = config.to_dict()
    assert values["data"] == ["a", "b@3"] and values["unlabelled"] == []
    assert values.keys() == {item.name for item in fields(Config)}
    assert from_dict(values | {"what": "nobody knows"}) == config
    assert from_dict({}) == Config()


def parsed(*arguments: str, names=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser, names)
    return parser.parse_args(arguments)


def test_arguments_hold_what_was_given_and_nothing_else():
    assert vars(parsed()) == {} and from_arguments(parsed()) == Config()
    given = parsed("--data", "a", "b", "--batch-size", "3", "--compile")
    assert vars(given) == {"data": ["a", "b"], "batch_size": 3, "compile": True}
    given.other = "of the script"
    assert from_arguments(given) == Config(data=("a", "b"), batch_size=3, compile=True)
    for wrong in (["--variant", "medium"], ["--size", "8.5"], ["--compile", "1"], ["--data"]):
        with pytest.raises(SystemExit):
            parsed(*wrong)
    assert vars(parsed("--lr", "1", names=["lr"])) == {"lr": 1.0}
    with pytest.raises(SystemExit):
        parsed("--size", "64", names=["lr"])


def test_help_tells_groups_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    message = " ".join(capsys.readouterr().out.split())
    for text in (
        "data: --data DIR [DIR ...] ", "(default: data/train)", "model: --variant {small,large}",
        "optimization: --epochs", "augmentation: --rotation", "distillation: --teacher",
        "run: --out", "--batch-size N", "--val-data DIR", "--compile torch.compile",
    ):  # fmt: skip
        assert text in message, text
    resume = "--resume resume from last.pt in --out; give --data if it has moved --init-from FILE"
    assert resume in message  # no default to tell
    assert "(default: )" not in message
