"""How many published models build and trace into a right graph, with right init laws.

Run by hand, in an environment with torch, torchvision, timm and transformers:

    python benchmarks/coverage.py [torchvision|timm|transformers|large]... [--only SUBSTRING] [--results FILE]

Prints a line a model (way of tracing, layers, residual adds, share of parameters with a law, standard deviations that a
real build agrees with, unknown operations) and a summary a suite: traced, ways, counts as in the papers
(`coverage_truth.py`), models with at least 99.9 % of their parameters covered, standard deviations within 12 %, models
whose every operation the prediction has a rule for.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from coverage_truth import TRUTH

from gradlint.graph.build import BuildError, BuiltModel, build
from gradlint.graph.model import WEIGHTED, ModelGraph
from gradlint.graph.signal import profile
from gradlint.graph.topology import Topology
from gradlint.graph.trace import TraceError, trace_model
from gradlint.graph.trace_parametrized import computed_weights
from gradlint.worker.protocol import Slice

TOLERANCE = 0.12
MIN_ELEMENTS = 500
"""The standard deviation of fewer elements is off by chance: 12 % are then 3.8 standard errors."""


@dataclass(frozen=True)
class Subject:
    """A model: what to import, and the expression that makes it."""

    name: str
    imports: str
    target: str


def torchvision_models() -> Iterator[Subject]:
    """Every classification, detection, segmentation and video net of torchvision."""
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models):
        yield Subject(name, "import torchvision", f"torchvision.models.{name}(weights=None)")
    for part in ("segmentation", "detection", "video"):
        for name in torchvision.models.list_models(module=getattr(torchvision.models, part)):
            weights = "weights=None, weights_backbone=None" if part != "video" else "weights=None"
            yield Subject(name, "import torchvision", f"torchvision.models.{part}.{name}({weights})")


def timm_models() -> Iterator[Subject]:
    """One model of each timm module: a small one, by its name."""
    import timm

    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            small = min(names, key=lambda n: (not any(s in n for s in ("tiny", "nano", "_s", "small")), n))
            yield Subject(small, "import timm", f"timm.create_model({small!r}, pretrained=False)")


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


def transformers_models() -> Iterator[Subject]:
    """Thirty families of transformers with tiny configurations."""
    import transformers

    names = {name.lower(): name for name in dir(transformers)}
    for family, settings in FAMILIES.items():
        config, model = names[f"{family}config".lower()], names[f"{family}model".lower()]
        target = f"transformers.{model}(transformers.{config}(**{settings!r}))"
        yield Subject(f"{family}Model", "import transformers", target)


def residual_adds(topology: Topology) -> int:
    """How many adds bring a skip back."""
    return sum(s.kind == "add" for s in topology.skips)


def law_coverage(graph: ModelGraph) -> float:
    """The share of trainable elements whose mean and standard deviation are known before training."""
    sizes = [(math.prod(s or 0 for s in p.shape), p.law) for p in graph.parameters if p.trainable]
    known = sum(n for n, law in sizes if law is not None and law.std is not None and law.mean is not None)
    return known / max(sum(n for n, _ in sizes), 1)


def law_errors(graph: ModelGraph, built: BuiltModel) -> tuple[int, int, str]:
    """(parameters of a real build that the laws describe, parameters compared, the worst one)."""
    computed = {name for name, _, _ in computed_weights(built.module)}
    real = dict(built.factory(0).named_parameters())
    right, compared, worst = 0, 0, (0.0, "")
    for p in graph.parameters:
        tensor = real.get(p.name)
        if tensor is None or p.law is None or p.law.std is None or p.name in computed or tensor.numel() < MIN_ELEMENTS:
            continue
        compared += 1
        std = float(tensor.detach().double().std(correction=0))
        error = abs(std - p.law.std) / max(std, p.law.std, 1e-12)
        right += error <= TOLERANCE
        worst = max(worst, (error, p.name))
    return right, compared, f"{worst[1]} {worst[0]:.0%}" if worst[0] > TOLERANCE else ""


def measure(subject: Subject, real_limit: int) -> dict[str, Any]:
    """Build and trace one model as a script's model is, and compare what came of it."""
    text = f"{subject.imports}\n"
    sliced = Slice(str(Path.cwd() / "<model>"), str(Path.cwd()), text, subject.target, keep=((1, 1),))
    row: dict[str, Any] = {"name": subject.name}
    start = time.process_time()
    try:
        built = build(sliced)
        row["built"] = time.process_time() - start
        start = time.process_time()
        graph = trace_model(built).graph
    except (BuildError, TraceError) as error:
        return row | {"failed": str(error)[:200]}
    except Exception as error:
        return row | {"failed": f"internal: {type(error).__name__}: {error}"[:200]}
    row |= {
        "traced": time.process_time() - start,
        "way": graph.traced_by,
        "input": graph.input,
        "parameters": sum(math.prod(s or 0 for s in p.shape) for p in graph.parameters if not p.buffer),
        "layers": sum(n.kind in WEIGHTED for n in graph.nodes),
        "skips": residual_adds(Topology(graph)),
        "unknown": Counter(n.op for n in graph.nodes if n.kind == "unknown"),
        "no_rule": list(profile(graph).unknown_ops),
        "laws": law_coverage(graph),
    }
    if row["parameters"] <= real_limit:
        try:
            row["right"], row["compared"], row["worst"] = law_errors(graph, built)
        except Exception as error:
            row["worst"] = f"no real build: {type(error).__name__}: {error}"[:120]
    return row


def truth(suite: str, name: str) -> tuple[int, int] | None:
    """Layers and skips as published; timm's Inception v3 comes without the auxiliary head that torchvision's has."""
    return None if (suite, name) == ("timm", "inception_v3") else TRUTH.get(name)


def line(suite: str, row: dict[str, Any]) -> str:
    """One model as a person reads it; `=` where the counts are those of the paper, `≠` where not."""
    if "failed" in row:
        return f"  ✗ {row['name']:36} {row['failed']}"
    expected = truth(suite, row["name"])
    mark = " " if expected is None else "=" if expected == (row["layers"], row["skips"]) else "≠"
    stds = f"{row['right']}/{row['compared']} stds" if "right" in row else ""
    return (
        f"  {mark} {row['name']:36} {row['way']:20} {row['layers']:4} layers {row['skips']:3} skips"
        f" {row['laws']:7.2%} laws {stds:14} {row['traced']:5.1f} s {dict(row['unknown']) or ''} {row.get('worst', '')}"
    )


def summary(suite: str, rows: list[dict[str, Any]]) -> str:
    """The suite in a table row, and what to look into."""
    good = [r for r in rows if "failed" not in r]
    checked = [r for r in good if truth(suite, r["name"])]
    exact = sum(truth(suite, r["name"]) == (r["layers"], r["skips"]) for r in checked)
    full = sum(r["laws"] >= 0.999 for r in good)
    right, compared = (sum(r.get(k, 0) for r in good) for k in ("right", "compared"))
    ways = Counter(r["way"] for r in good)
    silent = sum(not r["no_rule"] for r in good)
    wrong = [r["name"] for r in checked if truth(suite, r["name"]) != (r["layers"], r["skips"])]
    unknown: Counter[str] = Counter()
    for r in good:
        unknown.update(r["unknown"])
    return (
        f"| {suite} | {len(good)}/{len(rows)} | {', '.join(f'{n} {w}' for w, n in ways.most_common())}"
        f" | {exact}/{len(checked)} | {full}/{len(good)} | {right}/{compared} | {silent}/{len(good)} |\n"
        f"  unknown operations: {dict(unknown.most_common(15))}\n"
        f"  wrong counts: {wrong or 'none'}"
    )


def large() -> None:
    """Build and trace LLaMA 7B from its configuration: seconds, and memory above what the imports take."""
    import transformers

    _ = transformers.LlamaForCausalLM
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    row = measure(
        Subject("Llama 7B", "import transformers", "transformers.LlamaForCausalLM(transformers.LlamaConfig())"), 0
    )
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    billions, seconds = row.get("parameters", 0) / 1e9, time.perf_counter() - start
    print(line("transformers", row))
    print(f"  {billions:.1f} billion parameters, {seconds:.1f} s, {grown:.0f} MB")


SUITES = {"torchvision": torchvision_models, "timm": timm_models, "transformers": transformers_models}


def main() -> None:
    """Measure the suites that were asked for; models whose row is in the results file already are not run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", default=list(SUITES), help="torchvision, timm, transformers or large")
    parser.add_argument("--only", default="", help="models whose name holds this")
    parser.add_argument("--results", type=Path, help="a JSON-lines file that rows are kept in, to go on after a stop")
    parser.add_argument(
        "--real-limit", type=int, default=30_000_000, help="parameters up to which it is built for real"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for suite in arguments.suites:
        if suite == "large":
            large()
            continue
        kept = _kept(arguments.results, suite)
        rows = []
        for subject in SUITES[suite]():
            if arguments.only not in subject.name:
                continue
            row = kept.get(subject.name)
            if row is None:
                row = measure(subject, arguments.real_limit)
                if arguments.results:
                    with arguments.results.open("a") as file:
                        file.write(json.dumps({"suite": suite, **row}) + "\n")
                print(line(suite, row), flush=True)
            rows.append(row)
        print(summary(suite, rows), flush=True)


def _kept(path: Path | None, suite: str) -> dict[str, dict[str, Any]]:
    if path is None or not path.is_file():
        return {}
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    return {r["name"]: r for r in rows if r["suite"] == suite}


if __name__ == "__main__":
    main()
