"""Layers and residual adds of published architectures, by formula from the papers' tables.

A layer is a call of a linear, convolution, attention or recurrent operation, auxiliary heads included. Sources: He et
al. 2016 (table 1), Xie et al. 2017, Zagoruyko & Komodakis 2016, Simonyan & Zisserman 2015 (table 1), Krizhevsky et al.
2012, Iandola et al. 2016, Huang et al. 2017 (table 1), Sandler et al. 2018 (table 2), Howard et al. 2019 (tables 1
and 2), Tan et al. 2019, Ma et al. 2018 (table 5), Tan & Le 2019 (table 1) and 2021 (table 4), Liu et al. 2022, Liu et
al. 2021 and 2022b, Dosovitskiy et al. 2021 (table 1), Radosavovic et al. 2020, Szegedy et al. 2015 and 2016.
"""

from __future__ import annotations

from math import ceil

Count = tuple[int, int]
"""(layers, residual adds)"""


def resnet(depths: list[int], width: int) -> Count:
    """`width` layers a block; a projection at each stage that changes the width."""
    projections = 4 if width == 3 else 3
    return 2 + width * sum(depths) + projections, sum(depths)


def inverted(rows: list[tuple[int, int, int, bool, int]], first: int, ends: int) -> Count:
    """MobileNet blocks: rows of (expansion width, output width, kernel, squeeze-and-excite, stride)."""
    layers, skips, before = ends, 0, first
    for expanded, width, _, excites, stride in rows:
        layers += 2 + (expanded != before) + 2 * excites
        skips += stride == 1 and width == before
        before = width
    return layers, skips


def efficientnet(depth: float) -> Count:
    """EfficientNet-B0 is 1, 2, 2, 3, 3, 4, 1 blocks; each number times `depth`, rounded up."""
    blocks = [ceil(n * depth - 1e-9) for n in (1, 2, 2, 3, 3, 4, 1)]
    return 3 + 4 * blocks[0] + 5 * sum(blocks[1:]), sum(n - 1 for n in blocks)


def efficientnet_v2(fused: list[int], plain: list[int]) -> Count:
    """Fused blocks have one layer at expansion 1 (the first stage, all of it residual), else two."""
    layers = 3 + fused[0] + 2 * sum(fused[1:]) + 5 * sum(plain)
    return layers, fused[0] + sum(n - 1 for n in (*fused[1:], *plain))


def regnet(depths: list[int], excites: bool) -> Count:
    """A stem, a head, three layers a block, a projection a stage."""
    return 2 + (5 if excites else 3) * sum(depths) + len(depths), sum(depths)


def swin(depths: list[int], per_block: int) -> Count:
    """A patch embedding, three mergings, a head; v2 has a two-layer network for the position bias in each block."""
    return 5 + per_block * sum(depths), 2 * sum(depths)


def vit(depth: int) -> Count:
    """Attention as one layer with its projections, and two of the MLP."""
    return 2 + 3 * depth, 2 * depth


def transformer(blocks: int, linears: int, fused: bool, skips: int = 2, extra: int = 0) -> Count:
    """Blocks of so many linear layers, `fused` where scaled_dot_product_attention counts as one more."""
    return blocks * (linears + fused) + extra, blocks * skips


_V3_SMALL = [
    (16, 16, 3, True, 2), (72, 24, 3, False, 2), (88, 24, 3, False, 1), (96, 40, 5, True, 2), (240, 40, 5, True, 1),
    (240, 40, 5, True, 1), (120, 48, 5, True, 1), (144, 48, 5, True, 1), (288, 96, 5, True, 2), (576, 96, 5, True, 1),
    (576, 96, 5, True, 1),
]  # fmt: skip
_V3_LARGE = [
    (16, 16, 3, False, 1), (64, 24, 3, False, 2), (72, 24, 3, False, 1), (72, 40, 5, True, 2), (120, 40, 5, True, 1),
    (120, 40, 5, True, 1), (240, 80, 3, False, 2), (200, 80, 3, False, 1), (184, 80, 3, False, 1),
    (184, 80, 3, False, 1), (480, 112, 3, True, 1), (672, 112, 3, True, 1), (672, 160, 5, True, 2),
    (960, 160, 5, True, 1), (960, 160, 5, True, 1),
]  # fmt: skip
_REGNETS = {
    "x_400mf": [1, 2, 7, 12], "x_800mf": [1, 3, 7, 5], "x_1_6gf": [2, 4, 10, 2], "x_3_2gf": [2, 6, 15, 2],
    "x_8gf": [2, 5, 15, 1], "x_16gf": [2, 6, 13, 1], "x_32gf": [2, 7, 13, 1], "y_400mf": [1, 3, 6, 6],
    "y_800mf": [1, 3, 8, 2], "y_1_6gf": [2, 6, 17, 2], "y_3_2gf": [2, 5, 13, 1], "y_8gf": [2, 4, 10, 1],
    "y_16gf": [2, 4, 11, 1], "y_32gf": [2, 5, 12, 1], "y_128gf": [2, 7, 17, 1],
}  # fmt: skip

TRUTH: dict[str, Count] = {
    "alexnet": (5 + 3, 0),
    "squeezenet1_0": (2 + 8 * 3, 0),
    "squeezenet1_1": (2 + 8 * 3, 0),
    "mobilenet_v2": (1 + 2 + 16 * 3 + 2, sum(n - 1 for n in (1, 2, 3, 4, 3, 3, 1))),
    "mobilenet_v3_small": inverted(_V3_SMALL, 16, 1 + 1 + 2),
    "mobilenet_v3_large": inverted(_V3_LARGE, 16, 1 + 1 + 2),
    # Nine inception modules of six convolutions; two auxiliary heads of a convolution and two linear layers.
    "googlenet": (3 + 9 * 6 + 1 + 2 * 3, 0),
    "inception_v3": (5 + 3 * 7 + 4 + 4 * 10 + 6 + 2 * 9 + 1 + 3, 0),
    "resnet18": resnet([2, 2, 2, 2], 2),
    "resnet34": resnet([3, 4, 6, 3], 2),
    **dict.fromkeys(("resnet50", "resnext50_32x4d", "wide_resnet50_2"), resnet([3, 4, 6, 3], 3)),
    **dict.fromkeys(
        ("resnet101", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2"), resnet([3, 4, 23, 3], 3)
    ),
    "resnet152": resnet([3, 8, 36, 3], 3),
    **{f"vgg{n}{bn}": (n, 0) for n in (11, 13, 16, 19) for bn in ("", "_bn")},
    **{f"densenet{n}": (n, 0) for n in (121, 161, 169, 201)},
    **{f"mnasnet{w}": (3 + 16 * 3 + 2, sum(n - 1 for n in (3, 3, 3, 2, 4, 1))) for w in ("0_5", "0_75", "1_0", "1_3")},
    **{f"shufflenet_v2_x{w}": (3 + sum(5 + 3 * (n - 1) for n in (4, 8, 4)), 0) for w in ("0_5", "1_0", "1_5", "2_0")},
    **{f"efficientnet_b{n}": efficientnet(d) for n, d in enumerate((1.0, 1.1, 1.2, 1.4, 1.8, 2.2, 2.6, 3.1))},
    "efficientnet_v2_s": efficientnet_v2([2, 4, 4], [6, 9, 15]),
    "efficientnet_v2_m": efficientnet_v2([3, 5, 5], [7, 14, 18, 5]),
    "efficientnet_v2_l": efficientnet_v2([4, 7, 7], [10, 19, 25, 7]),
    "convnext_tiny": (5 + 3 * 18, 18),
    **{f"convnext_{size}": (5 + 3 * 36, 36) for size in ("small", "base", "large")},
    **{f"vit_b_{p}": vit(12) for p in (16, 32)},
    **{f"vit_l_{p}": vit(24) for p in (16, 32)},
    "vit_h_14": vit(32),
    **{f"swin_{s}": swin(d, 4) for s, d in (("t", [2, 2, 6, 2]), ("s", [2, 2, 18, 2]), ("b", [2, 2, 18, 2]))},
    **{f"swin_v2_{s}": swin(d, 6) for s, d in (("t", [2, 2, 6, 2]), ("s", [2, 2, 18, 2]), ("b", [2, 2, 18, 2]))},
    **{f"regnet_{name}": regnet(depths, name.startswith("y")) for name, depths in _REGNETS.items()},
    # transformers, two blocks each (`SMALL` of the benchmark): query, key, value, output and the MLP.
    "BertModel": transformer(2, 6, True, extra=1),
    "RobertaModel": transformer(2, 6, True, extra=1),
    "ElectraModel": transformer(2, 6, True, extra=1),
    "AlbertModel": transformer(2, 6, True, extra=2),
    "DistilBertModel": transformer(2, 6, True),
    "GPT2Model": transformer(2, 4, True),
    "GPTNeoXModel": (2 * (4 + 1), 2),
    "OPTModel": transformer(2, 6, True),
    **{f"{name}Model": transformer(2, 7, True) for name in ("Llama", "Mistral", "Qwen2", "Gemma")},
    "ViTModel": transformer(2, 6, True, extra=2),
    "T5Model": (2 * (6 + 1) + 2 * (10 + 2), 2 * 2 + 2 * 3),
    "BartModel": (2 * (6 + 1) + 2 * (10 + 2), 2 * 2 + 2 * 3),
    "WhisperModel": (2 + 2 * (6 + 1) + 2 * (10 + 2), 2 * 2 + 2 * 3),
}
