"""Inputs of transformers models, after their configuration and the arguments of their forward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from gradlint.graph.input_facts import BATCH, TOKENS
from gradlint.graph.input_leaves import spec
from gradlint.graph.inputs import InputSpec, ModelInput

_SIGNALS = ("pixel_values", "input_ids", "input_features", "input_values", "decoder_input_ids", "bbox")
"""Arguments that some models need beside their main one, though they default to None."""


def transformers_inputs(module: nn.Module) -> Iterator[ModelInput]:
    """The main input with what the forward requires; then with one more argument each, then with all of them."""
    config, main = getattr(module, "config", None), getattr(module, "main_input_name", None)
    if config is None or not isinstance(main, str):
        return
    known = _known(_Sizes(config))
    parameters = inspect.signature(module.forward).parameters
    required = [n for n, p in parameters.items() if p.default is p.empty and n in known and n != main]
    optional = [n for n in _SIGNALS if n in parameters and n not in (main, *required)]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in optional:
        required.append("decoder_input_ids")
    if hasattr(config, "text_config") and hasattr(config, "vision_config") and "pixel_values" in optional:
        required.append("pixel_values")
    optional = [n for n in optional if n not in required]
    for choice in known.get(main, known["input_ids"]):
        yield from (_together(known, replace(choice, name=main), names) for names in _combinations(required, optional))
    yield _together(known, replace(known["input_ids"][0], name="input_ids"), [n for n in required if n != "input_ids"])
    yield ModelInput((replace(known["input_ids"][0], name="input_ids"),))


def _combinations(required: list[str], optional: list[str]) -> Iterator[list[str]]:
    yield required
    if required:
        yield []
    yield from ([*required, name] for name in optional)
    if len(optional) > 1:
        yield [*required, *optional]


def _together(known: dict[str, list[InputSpec]], main: InputSpec, names: list[str]) -> ModelInput:
    return ModelInput((main, *(replace(known[n][0], name=n) for n in names if n != main.name)))


@dataclass(frozen=True)
class _Sizes:
    """The sizes in a configuration and in those of its parts."""

    config: Any

    def of(self, *names: str, part: str = "") -> int | None:
        """The first that is set, of a part where that has one; of a list the last."""
        for owner in (getattr(self.config, part, None) if part else None, self.config):
            for name in names:
                value = getattr(owner, name, None)
                value = value[-1] if isinstance(value, (list, tuple)) and value else value
                if isinstance(value, int) and value:
                    return value
        return None


def _known(sizes: _Sizes) -> dict[str, list[InputSpec]]:
    """What arguments of transformers models may be, by name."""
    longest = sizes.of("max_position_embeddings", "n_positions", part="text_config") or TOKENS
    count = min(TOKENS, longest)
    tokens = spec("int64", (BATCH, count), sizes.of("vocab_size", part="text_config") or 100)
    side = sizes.of("image_size", "img_size", part="vision_config") or 224
    pixels = spec(None, (BATCH, sizes.of("num_channels", part="vision_config") or 3, side, side))
    bins = sizes.of("num_mel_bins", "feature_size", part="audio_config") or 80
    audio = spec(None, (BATCH, bins, 2 * (sizes.of("max_source_positions", part="audio_config") or 1500)))
    frames = spec(None, (BATCH, sizes.of("num_frames", part="vision_config") or 16, *pixels.shape[1:]))
    return {
        "input_ids": [tokens],
        "decoder_input_ids": [tokens],
        "qformer_input_ids": [tokens],
        "bbox": [InputSpec((BATCH, count, 4), "int64", None, 100, "zeros")],
        "pixel_values": [pixels, frames],
        "pixel_values_videos": [frames],
        "input_values": [spec(None, (BATCH, 16000)), spec(None, (BATCH, 1024, 128)), spec(None, (BATCH, 1, 16000))],
        "input_features": [audio, replace(audio, shape=(BATCH, 1024, bins)), replace(audio, shape=(BATCH, 160, bins))],
    }
