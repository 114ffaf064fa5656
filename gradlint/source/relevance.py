"""A byte test that drops files which cannot say anything about training."""

from __future__ import annotations

import re

_WORDS = re.compile(
    rb"\b(?:torch|lightning|pytorch_lightning|transformers|accelerate|timm|deepspeed|fastai|trl|peft|torchvision|ignite"
    rb"|apex|catalyst|diffusers)\b"
)


def is_relevant(raw: bytes) -> bool:
    """Whether a file names torch or a library built on it; all facts that gradlint reads need one."""
    return _WORDS.search(raw) is not None
