"""Classification nets of torchvision as shipped, at a small resolution: `prediction.py --set zoo`."""

from __future__ import annotations

from collections.abc import Iterator

import torchvision
from prediction_nets import Case

NETS = {
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "efficientnet_b0": 64,
    "densenet121": 64,
    "shufflenet_v2_x1_0": 64,
    "squeezenet1_1": 64,
    "mnasnet1_0": 64,
    "regnet_y_400mf": 64,
    "vgg11": 64,
    "vgg11_bn": 64,
    "convnext_tiny": 64,
}
"""Name and side of the image."""


def cases() -> Iterator[Case]:
    """All nets."""
    for name, side in NETS.items():
        build = getattr(torchvision.models, name)
        yield "zoo", name, lambda b=build: b(weights=None), (8, 3, side, side)
