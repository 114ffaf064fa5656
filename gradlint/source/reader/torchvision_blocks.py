"""Blocks of torchvision that people build their own nets from, as the layers they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradlint.source.reader.layers import bind
from gradlint.source.reader.values import External, Site

CONVOLUTION_BLOCKS = {
    "ConvNormActivation": 2,
    "Conv2dNormActivation": 2,
    "ConvBNReLU": 2,
    "ConvBNActivation": 2,
    "Conv3dNormActivation": 3,
}
"""torchvision.ops.misc, and older names of the same in its models, with the number of spatial axes."""

_SIGNATURE = (
    "in_channels, out_channels, kernel_size=3, stride=1, padding=None, groups=1, norm_layer=None, "
    "activation_layer=None, dilation=1, inplace=True, bias=None"
)

Make = Callable[[str, list[Any], dict[str, Any], Site], Any]
Call = Callable[[Any, list[Any], dict[str, Any], Site], Any]


def convolution_block(make: Make, call: Call, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
    """Convolution, norm and activation in a row; `norm_layer=None` and `activation_layer=None` leave theirs out."""
    dims = CONVOLUTION_BLOCKS[name]
    activation = External("torch.nn.ReLU6" if name == "ConvBNReLU" else "torch.nn.ReLU")
    defaults = {"norm_layer": External(f"torch.nn.BatchNorm{dims}d"), "activation_layer": activation}
    a = bind(_SIGNATURE, args, {**defaults, **kwargs})
    norm, activation = a["norm_layer"], a["activation_layer"]
    padding = a["padding"]
    if padding is None and isinstance(a["kernel_size"], int) and isinstance(a["dilation"], int):
        padding = (a["kernel_size"] - 1) // 2 * a["dilation"]
    options = {
        "stride": a["stride"],
        "padding": padding,
        "dilation": a["dilation"],
        "groups": a["groups"],
        "bias": norm is None if a["bias"] is None else a["bias"],
    }
    layers = [make(f"Conv{dims}d", [a["in_channels"], a["out_channels"], a["kernel_size"]], options, site)]
    layers += [call(norm, [a["out_channels"]], {}, site)] if norm is not None else []
    layers += [call(activation, [], {}, site)] if activation is not None else []
    return make("Sequential", layers, {}, site)
