"""Checkpoints: what is shipped, what is read, what is refused."""

from config import DEFAULT_CHECKPOINT, default_checkpoint


def test_ones_own_training_comes_before_the_shipped_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_checkpoint() == DEFAULT_CHECKPOINT
    (tmp_path / "runs" / "train").mkdir(parents=True)
    (tmp_path / "runs" / "train" / "best.pt").write_bytes(b"")
    assert (tmp_path / default_checkpoint()).samefile("runs/train/best.pt")
