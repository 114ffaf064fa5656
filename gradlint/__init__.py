"""gradlint: a linter for vanishing and exploding gradients in PyTorch training scripts."""

__version__ = "0.1.0"
