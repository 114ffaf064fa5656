"""Published networks as shipped: `prediction.py --set torchvision|timm|transformers`.

Images are small, since the truth is a float64 run on one CPU thread: 64² to 128², 224² where a network takes no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coverage import FAMILIES
from prediction_nets import Case, Published

TORCHVISION: dict[str, int] = {
    "alexnet": 64,
    "vgg11": 64,
    "vgg13_bn": 64,
    "vgg16": 64,
    "vgg16_bn": 64,
    "resnet18": 64,
    "resnet34": 64,
    "resnet50": 64,
    "resnet101": 64,
    "resnet152": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "densenet121": 64,
    "densenet169": 64,
    "squeezenet1_0": 64,
    "squeezenet1_1": 64,
    "googlenet": 64,
    "inception_v3": 299,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mobilenet_v3_large": 64,
    "mnasnet0_5": 64,
    "mnasnet1_0": 64,
    "shufflenet_v2_x0_5": 64,
    "shufflenet_v2_x1_0": 64,
    "shufflenet_v2_x1_5": 64,
    "efficientnet_b0": 64,
    "efficientnet_b1": 64,
    "efficientnet_b3": 64,
    "efficientnet_v2_s": 64,
    "regnet_x_400mf": 64,
    "regnet_x_800mf": 64,
    "regnet_x_1_6gf": 64,
    "regnet_y_400mf": 64,
    "regnet_y_800mf": 64,
    "regnet_y_1_6gf": 64,
    "convnext_tiny": 64,
    "convnext_small": 64,
    "swin_t": 64,
    "swin_s": 64,
    "swin_v2_t": 64,
    "maxvit_t": 224,
    "vit_b_32": 224,
}
"""Name and side of the image."""

TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "botnet26t_256": (256, {}),
    "gernet_s": (64, {}),
    "repvgg_a0": (64, {}),
    "mobileone_s0": (64, {}),
    "cait_xxs24_224": (64, {"img_size": 64}),
    "coat_lite_tiny": (64, {"img_size": 64}),
    "convit_tiny": (64, {"img_size": 64}),
    "convmixer_768_32": (64, {}),
    "convnext_atto": (64, {}),
    "convnextv2_atto": (64, {}),
    "crossvit_9_240": (240, {}),
    "cs3darknet_s": (64, {}),
    "darknet17": (64, {}),
    "davit_tiny": (64, {}),
    "deit_tiny_patch16_224": (64, {"img_size": 64}),
    "densenet121": (64, {}),
    "dla34": (64, {}),
    "dpn68": (64, {}),
    "edgenext_xx_small": (64, {}),
    "mixnet_s": (64, {}),
    "tinynet_e": (64, {}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (128, {"img_size": 128}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56}),
    "fasternet_t0": (64, {}),
    "fastvit_t8": (64, {}),
    "focalnet_tiny_srf": (64, {}),
    "gcvit_xxtiny": (224, {}),
    "ghostnet_050": (64, {}),
    "hgnetv2_b0": (64, {}),
    "hrnet_w18_small": (64, {}),
    "inception_next_atto": (64, {}),
    "inception_resnet_v2": (128, {}),
    "lcnetv2_small": (64, {}),
    "levit_128s": (224, {}),
    "mambaout_femto": (64, {}),
    "caformer_s18": (64, {}),
    "poolformer_s12": (64, {}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "gmlp_s16_224": (64, {"img_size": 64}),
    "mobilenetv3_small_050": (64, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "mvitv2_tiny": (224, {}),
    "nest_tiny": (224, {}),
    "nf_regnet_b0": (64, {}),
    "nf_resnet26": (64, {}),
    "dm_nfnet_f0": (64, {}),
    "pit_ti_224": (64, {"img_size": 64}),
    "pvt_v2_b0": (64, {}),
    "regnety_002": (64, {}),
    "repvit_m0_9": (64, {}),
    "res2net50_14w_8s": (64, {}),
    "resnest14d": (64, {}),
    "resnet26d": (64, {}),
    "seresnet50": (64, {}),
    "resnetv2_18": (64, {}),
    "resnetv2_50x1_bit": (64, {}),
    "rexnet_100": (64, {}),
    "selecsls42": (64, {}),
    "sequencer2d_s": (224, {}),
    "skresnet18": (64, {}),
    "starnet_s050": (64, {}),
    "swiftformer_xs": (64, {}),
    "swin_tiny_patch4_window7_224": (64, {"img_size": 64}),
    "swinv2_cr_tiny_224": (64, {"img_size": 64}),
    "tiny_vit_5m_224": (64, {}),
    "tnt_s_patch16_224": (64, {"img_size": 64}),
    "twins_svt_small": (64, {"img_size": 64}),
    "vgg11": (64, {}),
    "visformer_tiny": (64, {"img_size": 64}),
    "vit_tiny_patch16_224": (64, {"img_size": 64}),
    "volo_d1_224": (64, {"img_size": 64}),
    "ese_vovnet19b_dw": (64, {}),
    "xception41": (64, {}),
    "xcit_nano_12_p16_224": (64, {"img_size": 64}),
}
"""One or two models of most modules: side of the image and arguments of the constructor."""

TEXT = ("Bert", "Roberta", "DistilBert", "Electra", "DebertaV2", "Albert", "MPNet", "GPT2", "GPTNeo", "GPTNeoX", "OPT")
TEXT += ("Bloom", "Llama", "Mistral", "Qwen2", "Gemma", "Phi", "Falcon", "T5", "Bart")


def torchvision_cases() -> Iterator[Case]:
    """Classification nets of torchvision."""
    for name, side in TORCHVISION.items():
        extra = ", init_weights=True" if name in ("googlenet", "inception_v3") else ""
        net = Published("import torchvision", f"torchvision.models.{name}(weights=None{extra})")
        yield "torchvision", name, net, (8 if side < 200 else 2, 3, side, side)


def timm_cases() -> Iterator[Case]:
    """Classification nets of timm."""
    for name, (side, extra) in TIMM.items():
        net = Published("import timm", f"timm.create_model({name!r}, **{extra!r})")
        yield "timm", name, net, (8 if side < 200 else 4, 3, side, side)


def transformers_cases() -> Iterator[Case]:
    """Text models with tiny configurations."""
    import transformers

    names = {name.lower(): name for name in dir(transformers)}
    for family in TEXT:
        config, model = names[f"{family}config".lower()], names[f"{family}model".lower()]
        made = f"prediction_text.Hidden(transformers.{model}(transformers.{config}(**{FAMILIES[family]!r})))"
        yield "transformers", family, Published("import prediction_text, transformers", made), (0, 8, 32)


def cases() -> Iterator[Case]:
    """All three libraries."""
    yield from torchvision_cases()
    yield from timm_cases()
    yield from transformers_cases()
