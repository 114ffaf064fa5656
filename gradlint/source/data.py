"""The data set of a script and its losses, for the inference of inputs and targets."""

from __future__ import annotations

import ast
import re

from gradlint.source.evaluate import Evaluator
from gradlint.source.index import FileIndex, location
from gradlint.source.resolve import resolve
from gradlint.source.things import ClassThing, External, Instance, external_name
from gradlint.source.value import Call, Resolution

SAMPLES: dict[str, tuple[int, ...]] = {
    "MNIST": (1, 28, 28),
    "FashionMNIST": (1, 28, 28),
    "KMNIST": (1, 28, 28),
    "EMNIST": (1, 28, 28),
    "QMNIST": (1, 28, 28),
    "USPS": (1, 16, 16),
    "CIFAR10": (3, 32, 32),
    "CIFAR100": (3, 32, 32),
    "SVHN": (3, 32, 32),
    "STL10": (3, 96, 96),
    "CelebA": (3, 218, 178),
    "ImageNet": (3, 224, 224),
    "FakeData": (3, 224, 224),
    "Food101": (3, 224, 224),
    "OxfordIIITPet": (3, 224, 224),
    "Flowers102": (3, 224, 224),
    "ImageFolder": (3, 224, 224),
}
"""One sample's shape, channels first, as torchvision delivers it (ImageFolder and larger ones as usually cropped)."""

_SIZES = ("RandomResizedCrop", "CenterCrop", "RandomCrop", "Resize", "Scale", "RandomSizedCrop")

_LOSS = re.compile(r"(Loss|_loss|cross_entropy|binary_cross_entropy\w*|kl_div|nll_loss|mse_loss|l1_loss)$")


def dataset_of(evaluator: Evaluator, index: FileIndex) -> tuple[str, tuple[int, ...]] | None:
    """The known data set that a file reads and one sample's shape, sizes of its transforms applied."""
    size = _crop(evaluator, index)
    for name, shape in SAMPLES.items():
        for site in index.calls_by_name.get(name, []):
            names = [external_name(t) or "" for t in evaluator.ask(site.node.func, site.scope)]
            if any(n.startswith("torchvision.datasets") for n in names):
                if name == "FakeData":
                    given = next((k.value for k in site.node.keywords if k.arg in {"image_size", "size"}), None)
                    values = resolve(evaluator, given, site.scope).only
                    if values is not None and isinstance(values.value, tuple):
                        return name, tuple(int(v) for v in values.value)
                if size is not None and len(shape) == 3:
                    return name, (_channels(index, shape[0]), *size)
                return name, shape
    return ("images", (3, *size)) if size is not None else None


def _crop(evaluator: Evaluator, index: FileIndex) -> tuple[int, int] | None:
    for name in _SIZES:
        for site in index.calls_by_name.get(name, []):
            node = (
                site.node.args[0]
                if site.node.args
                else next((k.value for k in site.node.keywords if k.arg == "size"), None)
            )
            value = resolve(evaluator, node, site.scope).only
            match value.value if value is not None else None:
                case bool():
                    continue
                case int(side):
                    return side, side
                case (int(height), int(width)) | [int(height), int(width)]:
                    return height, width
    return None


def _channels(index: FileIndex, channels: int) -> int:
    for site in index.calls_by_name.get("Grayscale", []):
        return (
            3
            if any(isinstance(k.value, ast.Constant) and k.value.value == 3 for k in (*site.node.keywords,))
            or any(isinstance(a, ast.Constant) and a.value == 3 for a in site.node.args)
            else 1
        )
    return channels


def losses_of(evaluator: Evaluator, index: FileIndex) -> list[Call]:
    """The criteria that a file constructs or calls, in source order."""
    found: list[Call] = []
    for name in filter(_LOSS.search, index.calls_by_name):
        for site in index.calls_by_name[name]:
            scope = site.scope
            callees = []
            for thing in evaluator.ask(site.node.func, scope):
                match thing:
                    case External(qualified) if qualified.startswith("torch"):
                        callees.append(qualified)
                    case ClassThing(scope=cls):
                        callees.append(cls.name)
                    case Instance():
                        callees.clear()
            if not callees:
                continue
            arguments: dict[str, Resolution] = {
                k.arg: resolve(evaluator, k.value, scope)
                for k in site.node.keywords
                if k.arg in {"reduction", "weight"}
            }
            found.append(Call(tuple(dict.fromkeys(callees)), location(scope.file, site.node), arguments))
    return sorted(found, key=lambda c: c.location)
