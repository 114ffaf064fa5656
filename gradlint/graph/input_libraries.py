"""Inputs of models of known libraries, after the configuration that such a model carries or the shape of its call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from gradlint.graph.input_facts import BATCH, TOKENS, Facts
from gradlint.graph.input_leaves import spec
from gradlint.graph.inputs import InputGroup, InputSpec, ModelInput


def transformers_inputs(module: nn.Module) -> Iterator[ModelInput]:
    """Inputs of a transformers model, after its `main_input_name` and configuration."""
    config, main = getattr(module, "config", None), getattr(module, "main_input_name", None)
    if config is None or not isinstance(main, str):
        return
    text = getattr(config, "text_config", None) or config
    vision = getattr(config, "vision_config", None) or config

    def size(*names: str, of: Any = config) -> int | None:
        values = (getattr(of, n, None) for n in names)
        return next((v[-1] if isinstance(v, (list, tuple)) else v for v in values if v), None)

    vocabulary = size("vocab_size", of=text) or size("vocab_size")
    longest = size("max_position_embeddings", "n_positions", of=text) or TOKENS
    tokens = spec("int64", (BATCH, min(TOKENS, longest)), vocabulary or 100)
    image = size("image_size", "img_size", of=vision) or 224
    pixels = spec(None, (BATCH, size("num_channels", of=vision) or 3, image, image))
    audio = spec(None, (BATCH, size("num_mel_bins", "feature_size") or 80, 2 * (size("max_source_positions") or 1500)))
    frames = spec(None, (BATCH, 16, pixels.shape[1], image, image))
    table: dict[str, list[InputSpec]] = {
        "input_ids": [tokens],
        "pixel_values": [pixels, frames],
        "pixel_values_videos": [frames],
        "input_values": [spec(None, (BATCH, 16000)), spec(None, (BATCH, 1024, 128)), spec(None, (BATCH, 1, 16000))],
        "input_features": [audio, replace(audio, shape=(BATCH, 1024, 80)), replace(audio, shape=(BATCH, 160, 80))],
    }
    extras: list[list[InputSpec]] = [[]]
    decoder = replace(tokens, name="decoder_input_ids")
    if getattr(config, "is_encoder_decoder", False):
        extras = [[decoder], []]
    if hasattr(config, "text_config") and hasattr(config, "vision_config"):
        extras = [[replace(pixels, name="pixel_values")], *extras]
    for choice in table.get(main, [tokens]):
        for extra in extras:
            kept = [e for e in extra if e.name != main]
            yield ModelInput((replace(choice, name=main), *kept))
    yield ModelInput((replace(tokens, name="input_ids"),))


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
