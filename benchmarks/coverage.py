"""How many models trace into a right graph: torchvision, timm (one model a module), transformers, hand-written nets.

Run by hand, in an environment with torch, torchvision, timm and transformers:

    python benchmarks/coverage.py [torchvision|timm|transformers|handmade] [--limit N] [--only SUBSTRING]

Prints a line a model (way of tracing, input, weighted layers, residual adds, unknown operations, seconds) and the
share of models that traced. Known truths are checked: a wrong count is marked.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import nn

from gradlint.graph.model import WEIGHTED
from gradlint.graph.topology import Topology
from gradlint.graph.trace import TraceError, trace_module

Factory = Callable[[], nn.Module]

TRUTH: dict[str, tuple[int | None, int | None]] = {
    # name: (weighted layers, residual adds), counted by hand from the papers' tables
    "alexnet": (8, 0),
    "vgg11": (11, 0),
    "vgg16": (16, 0),
    "vgg19_bn": (19, 0),
    "resnet18": (21, 8),
    "resnet34": (37, 16),
    "resnet50": (54, 16),
    "resnet101": (105, 33),
    "resnet152": (156, 50),
    "resnext50_32x4d": (54, 16),
    "wide_resnet50_2": (54, 16),
    "mobilenet_v2": (53, 10),
    "squeezenet1_0": (26, 0),
    "densenet121": (121, None),
    "densenet161": (161, None),
    "vit_b_16": (38, 24),
    "vit_l_16": (74, 48),
    "googlenet": (None, 0),
    "convnext_tiny": (59, 18),
    "swin_t": (None, 24),
    "efficientnet_b0": (None, 9),
    "mnasnet1_0": (53, 10),
    "BertModel": (None, 2 * 2),
    "GPT2Model": (None, 2 * 2),
    "LlamaModel": (None, 2 * 2),
    "DistilBertModel": (None, 2 * 2),
    "ViTModel": (None, 2 * 2),
    "T5Model": (None, 2 * 2 + 3 * 2),
}
"""Counts with auxiliary heads; transformers are built with two layers."""


def torchvision_models() -> Iterator[tuple[str, Factory]]:
    """Every classification net of torchvision."""
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models):
        yield name, lambda name=name: torchvision.models.get_model(name, weights=None)  # type: ignore[misc]


def timm_models() -> Iterator[tuple[str, Factory]]:
    """One model of each timm module, the one whose name comes first."""
    import timm

    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            small = sorted(names, key=lambda n: (not any(s in n for s in ("tiny", "nano", "_s", "small")), n))
            yield small[0], lambda name=small[0]: timm.create_model(name, pretrained=False)  # type: ignore[misc]


SMALL: dict[str, object] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
    "num_key_value_heads": 2,
}
NO_TEXT = {k: v for k, v in SMALL.items() if k != "vocab_size"}
FAMILIES: dict[str, dict[str, object]] = {
    "Bert": SMALL,
    "Roberta": SMALL | {"max_position_embeddings": 64},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 99},
    "Electra": SMALL | {"embedding_size": 16},
    "DebertaV2": SMALL,
    "Albert": SMALL | {"embedding_size": 16},
    "MPNet": SMALL,
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99},
    "GPTNeo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": 99,
        "attention_types": [[["global", "local"], 1]],
    },
    "GPTNeoX": SMALL,
    "OPT": SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99},
    "Llama": SMALL,
    "Mistral": SMALL,
    "Mixtral": SMALL | {"num_local_experts": 4},
    "Qwen2": SMALL,
    "Gemma": SMALL | {"head_dim": 8},
    "Phi": SMALL,
    "Falcon": SMALL,
    "T5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
    "Bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "vocab_size": 99,
    },
    "ViT": NO_TEXT,
    "Deit": NO_TEXT,
    "Swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "image_size": 64},
    "ConvNext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "Clip": {},
    "Whisper": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "vocab_size": 99,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    },
    "Wav2Vec2": SMALL
    | {"conv_dim": (32, 32), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_conv_pos_embeddings": 16},
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99, "state_size": 8},
    "Segformer": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2},
}


def transformers_models() -> Iterator[tuple[str, Factory]]:
    """Thirty families of transformers with tiny configurations."""
    import transformers

    names = {name.lower(): name for name in dir(transformers)}

    def make(family: str, settings: dict[str, object]) -> nn.Module:
        config = getattr(transformers, names[f"{family}config".lower()])(**settings)
        model: nn.Module = getattr(transformers, names[f"{family}model".lower()])(config)
        return model

    for family, settings in FAMILIES.items():
        yield f"{family}Model", lambda family=family, settings=settings: make(family, settings)  # type: ignore[misc]


def handmade_models() -> Iterator[tuple[str, Factory]]:
    """Nets as people write them; see `tests/graph/trace_nets.py`."""
    sys.path.insert(0, "tests/graph")
    import trace_nets  # type: ignore[import-not-found,unused-ignore]

    yield from trace_nets.NETS.items()


def residual_adds(topology: Topology) -> int:
    """How many adds bring a skip back."""
    return sum(s.kind == "add" for s in topology.skips)


def on_meta(factory: Factory) -> nn.Module | None:
    """The model built without data, which is quicker, or None where its constructor needs data."""
    try:
        with torch.device("meta"):
            return factory()
    except Exception:
        return None


def report_failure(name: str, error: Exception, ways: Counter[str]) -> None:
    """Print and count a model that does not trace."""
    ways["failed"] += 1
    print(f"  ✗ {name:36} {type(error).__name__}: {str(error)[:150]}", flush=True)


def measure(suite: str, models: Iterator[tuple[str, Factory]], limit: int, only: str) -> None:
    """Trace each model of a suite and print what came of it."""
    ways: Counter[str] = Counter()
    wrong, total, seconds, unknown = [], 0, 0.0, Counter[str]()
    for name, factory in models:
        if only not in name or total >= limit:
            continue
        try:
            module = on_meta(factory) or factory()
        except Exception as error:
            print(f"  - {name:36} cannot be built here: {type(error).__name__}: {str(error)[:80]!r}")
            continue
        total += 1
        start = time.process_time()
        try:
            traced = trace_module(module)
        except TraceError as error:
            # Some nets ask tensors for values, which those that were built on meta do not have.
            if not any(p.device.type == "meta" for p in module.parameters()):
                report_failure(name, error, ways)
                continue
            try:
                traced = trace_module(factory())
            except Exception as second:
                report_failure(name, second, ways)
                continue
        except Exception as error:
            report_failure(name, error, ways)
            continue
        spent = time.process_time() - start
        seconds += spent
        graph = traced.graph
        weighted = sum(n.kind in WEIGHTED for n in graph.nodes)
        skips = residual_adds(Topology(graph))
        strange = Counter(n.op for n in graph.nodes if n.kind == "unknown")
        unknown.update(strange)
        ways[graph.traced_by] += 1
        expected = TRUTH.get(name)
        mark = " "
        if expected is not None:
            good = expected[0] in (None, weighted) and expected[1] in (None, skips)
            mark = "=" if good else "≠"
            if not good:
                wrong.append(name)
        print(
            f"  {mark} {name:36} {graph.traced_by:20} {graph.input!s:24} {weighted:4} weighted {skips:3} skips"
            f" {spent:5.1f} s {dict(strange) or ''}",
            flush=True,
        )
    traced_count = total - ways["failed"]
    print(f"{suite}: {traced_count}/{total} traced, {dict(ways)}, {seconds:.1f} CPU s, wrong counts: {wrong or 'none'}")
    print(f"  unknown operations: {dict(unknown.most_common(12))}")


SUITES = {
    "handmade": handmade_models,
    "torchvision": torchvision_models,
    "timm": timm_models,
    "transformers": transformers_models,
}


def main() -> None:
    """Measure the suites that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", default=list(SUITES))
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for suite in arguments.suites:
        measure(suite, SUITES[suite](), arguments.limit, arguments.only)


if __name__ == "__main__":
    main()
