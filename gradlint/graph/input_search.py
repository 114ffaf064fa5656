"""The inputs that are tried on a model, the likeliest first."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import nn

from gradlint.graph.input_facts import BATCH, NODES, TOKENS, Facts, facts_of
from gradlint.graph.input_leaves import masks, plain_value, signals, spec, states
from gradlint.graph.input_libraries import detector_inputs, timm_inputs
from gradlint.graph.input_transformers import transformers_inputs
from gradlint.graph.inputs import Argument, InputGroup, InputSpec, ModelInput

MAX_ATTEMPTS = 80
"""Runs on meta tensors before the search gives up."""

_OPTIONAL_ATTEMPTS = 6
_STATES = ("hidden", "state", "h0", "hx", "h_0", "memory_state", "hc", "prev_h", "carry")
_EDGES = ("edge_index", "edges", "adj_t")
_ADJACENCIES = ("adj", "adjacency", "adj_mat", "adj_matrix")
_LABELS = ("label", "y", "cls", "class_labels", "c", "classes", "labels")
_FRACTIONS = re.compile(r"ratio|prob$|_rate$|forcing|^rate$|^temperature$|^tau$|^lambd?a?_?|^alpha$|^beta$|^gamma$")
_SWITCHES = re.compile(r"^(?:is|use|with|return)_|^(?:training|train|deterministic|verbose)$")
_TIMES = ("t", "time", "timestep", "timesteps", "times", "noise_level", "sigma", "step")


def candidates(module: nn.Module, sample: Sequence[int] | None = None) -> Iterator[ModelInput]:
    """Inputs to try, the likeliest first. `sample` is the shape of one sample of the script's data set."""
    facts = facts_of(module)
    yield from transformers_inputs(module)
    yield from timm_inputs(module)
    yield from detector_inputs(module, facts)
    parameters = facts.required or facts.optional[:1]
    if not parameters:
        yield ModelInput((spec(None, (BATCH, 3, 32, 32)),)) if facts.variadic else ModelInput(())
        return
    choices = [list(_choices(p, k, facts, module, sample)) for k, p in enumerate(parameters)]
    if any(p.name.lower() in (*_EDGES, *_ADJACENCIES) for p in parameters):
        choices = [list(map(_of_nodes, choice)) for choice in choices]
    longest = max(len(c) for c in choices)
    for n in range(longest):
        yield ModelInput(tuple(_named(p, c[min(n, len(c) - 1)]) for p, c in zip(parameters, choices, strict=True)))
    first = tuple(_named(p, c[0]) for p, c in zip(parameters, choices, strict=True))
    yield from _shares_of_the_first_layer(parameters, facts)
    for k in (k for k, p in enumerate(parameters) if "mask" in p.name.lower()):
        for choice in choices[k]:
            yield ModelInput((*first[:k], _named(parameters[k], choice), *first[k + 1 :]))
    yield from _with_optional(first, facts, module)
    if len(parameters) > 1:
        for k, p in enumerate(parameters):
            yield from (ModelInput((*first[:k], _named(p, c), *first[k + 1 :])) for c in choices[k][1:])
    if len(parameters) == 1:
        yield from (ModelInput((InputGroup((c,)),)) for c in choices[0][:2])
        yield ModelInput((InputGroup(tuple(_dictionary(choices[0][0])), "dict"),))


def _shares_of_the_first_layer(parameters: Sequence[inspect.Parameter], facts: Facts) -> Iterator[ModelInput]:
    """As many columns each as make up the first layer's input: coordinates, that a forward joins."""
    width = next((a.get("in_features") for _, _, kind, a in facts.leaves[:1] if kind == "linear"), None)
    count = len(parameters)
    if width and count > 1 and width % count == 0:
        yield ModelInput(tuple(_named(p, spec(None, (BATCH, width // count))) for p in parameters))


_LEFT_OUT = re.compile(r"mask|len|hidden|state|cache|past|return|output|label|target|train|eval|mode|use_|weight")
"""Optional arguments that a forward commonly does without."""


def _with_optional(required: tuple[Argument, ...], facts: Facts, module: nn.Module) -> Iterator[ModelInput]:
    """The likeliest input together with what defaults to None: captions under teacher forcing, a second modality."""
    wanted = [p for p in facts.optional if p.default is None and not _LEFT_OUT.search(p.name.lower())]
    if not facts.required or not wanted:
        return
    choices = [list(_choices(p, len(required) + k, facts, module, None)) for k, p in enumerate(wanted)]
    for n in range(min(_OPTIONAL_ATTEMPTS, max(map(len, choices)))):
        picked = (replace(c[min(n, len(c) - 1)], name=p.name) for p, c in zip(wanted, choices, strict=True) if c)
        yield ModelInput((*required, *picked))


def _of_nodes(choice: Argument) -> Argument:
    """The features of every node of a graph instead of those of every sample."""
    if isinstance(choice, InputSpec) and choice.batch_axis == 0 and choice.shape[:1] == (BATCH,):
        return replace(choice, shape=(NODES, *choice.shape[1:]), batch_axis=None)
    return choice


def _dictionary(choice: Argument) -> Iterator[Argument]:
    if isinstance(choice, InputSpec) and choice.law == "ids":
        yield replace(choice, name="input_ids")
        yield InputSpec(choice.shape, "int64", "attention_mask", None, "ones")
    else:
        yield replace(choice, name="x")


def _named(parameter: inspect.Parameter, choice: Argument) -> Argument:
    return replace(choice, name=parameter.name) if parameter.kind is inspect.Parameter.KEYWORD_ONLY else choice


def _choices(
    parameter: inspect.Parameter, position: int, facts: Facts, module: nn.Module, sample: Sequence[int] | None
) -> Iterator[Argument]:
    name = parameter.name.lower()
    annotation = parameter.annotation
    plain = {bool: False, int: 1, float: 0.5, str: ""}
    if isinstance(annotation, str):
        annotation = {"bool": bool, "int": int, "float": float, "str": str}.get(annotation, annotation)
    if annotation in plain:
        yield plain_value(plain[annotation])
        return
    if position and name == "device":
        yield plain_value("cpu")
    elif position and _FRACTIONS.search(name):
        yield plain_value(0.5)
        yield from signals(facts, position, module, None)
    elif position and _SWITCHES.search(name):
        yield plain_value(False)
    elif "mask" in name:
        yield from masks()
    elif "len" in name:
        yield InputSpec((BATCH,), "int64", None, TOKENS, "lengths")
        yield plain_value(TOKENS)
    elif any(s in name for s in _STATES) and (position or any(kind == "recurrent" for _, _, kind, _ in facts.leaves)):
        yield from states(facts)
    elif name in _EDGES:
        yield InputSpec((2, 2 * NODES), "int64", None, NODES, "ids", None)
    elif name in _ADJACENCIES:
        yield InputSpec((NODES, NODES), "float32", None, None, "adjacency", None)
    elif position and name in _TIMES:
        yield spec("int64", (BATCH,), 1000)
        yield spec(None, (BATCH,))
        yield spec(None, (BATCH, 1))
    elif position and name.startswith("action"):
        yield spec("int64", (BATCH,), 2)
        yield spec(None, (BATCH, 1))
        yield from signals(facts, position, module, None)
    elif position and name in _LABELS and not any(k == "linear" and position == 1 for _, _, k, _ in facts.leaves[:1]):
        embeddings = [a for _, _, k, a in facts.leaves if k == "embedding"]
        yield spec("int64", (BATCH,), (embeddings[-1].get("num_embeddings") if embeddings else None) or 10)
        yield from signals(facts, position, module, None)
    else:
        yield from signals(facts, position, module, sample if position == 0 else None, name)
