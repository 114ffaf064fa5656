"""Inputs of models of known libraries, after the configuration that such a model carries or the shape of its call."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from gradlint.graph.input_facts import BATCH, Facts
from gradlint.graph.input_leaves import spec
from gradlint.graph.inputs import InputGroup, InputSpec, ModelInput


def timm_inputs(module: nn.Module) -> Iterator[ModelInput]:
    """The input of a timm model, after the configuration that it carries."""
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    if isinstance(size, (tuple, list)) and len(size) == 3 and all(isinstance(s, int) for s in size):
        yield ModelInput((spec(None, (BATCH, *size)),))


_PIXELS = 64
_OBJECTS = 2


def detector_inputs(module: nn.Module, facts: Facts) -> Iterator[ModelInput]:
    """Images and their targets, as detection models of torchvision take them: lists with an entry for each image.

    A target holds boxes, labels, masks and keypoints: a model takes what it was made for.
    """
    parameters = [*facts.required, *facts.optional]
    if len(parameters) < 2 or parameters[1].name not in ("targets", "target"):
        return
    images = parameters[0]
    listed = re.search(r"\b[Ll]ist\b.*Tensor", str(images.annotation))
    if not (listed or (images.name == "images" and images.annotation is images.empty)):
        return
    points = [
        m.out_channels for n, m in module.named_modules() if isinstance(m, nn.ConvTranspose2d) and "keypoint" in n
    ]
    image = InputSpec((3, _PIXELS, _PIXELS), law="uniform01", batch_axis=None)
    target = (
        InputSpec((_OBJECTS, 4), "float32", "boxes", _PIXELS, "boxes", None),
        InputSpec((_OBJECTS,), "int64", "labels", 2, "ones", None),
        InputSpec((_OBJECTS, _PIXELS, _PIXELS), "uint8", "masks", 2, "ones", None),
        InputSpec((_OBJECTS, points[-1] if points else 17, 3), "float32", "keypoints", _PIXELS, "keypoints", None),
    )
    yield ModelInput(
        (
            InputGroup((image,), "samples", None, BATCH),
            InputGroup((InputGroup(target, "dict"),), "samples", None, BATCH),
        )
    )
