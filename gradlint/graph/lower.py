"""Makes a ModelGraph of a recorded fx graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import fx, nn

from gradlint.graph.lower_axes import infer_axes
from gradlint.graph.lower_draft import (
    Draft,
    Drafts,
    cut_control,
    drafts_of,
    drop_dead,
    drop_empty,
    drop_zero_states,
    fold_constants,
    fold_masks,
    fuse_log_softmax,
    join_identities,
    order_outputs,
    renumbered,
    resolve_writes,
    split_fused,
    stop_gradients,
)
from gradlint.graph.lower_elementwise import fuse_activations
from gradlint.graph.lower_loops import fold_loops
from gradlint.graph.lower_losses import open_losses
from gradlint.graph.lower_noise import fuse_dropout, law_after
from gradlint.graph.lower_weights import settle_weights
from gradlint.graph.model import InitLaw, ModelGraph, Node, Parameter
from gradlint.graph.naming import class_name, clean_path, wrapped_paths
from gradlint.location import Location


@dataclass
class Origins:
    """Where a model's modules and parameters come from, as `gradlint.graph.build.BuiltModel` holds it."""

    laws: Mapping[str, InitLaw] = field(default_factory=dict)
    constructors: Mapping[str, Location] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    frozen_by: Mapping[str, Location] = field(default_factory=dict)


def lower(graph: fx.Graph, module: nn.Module, origins: Origins) -> ModelGraph:
    """The operations that carry signal, with data edges only, of a graph that a `Recorder` wrote.

    Name, way of tracing, confidence and input are left for the caller to fill in.
    """
    drafts = drafts_of(graph)
    order_outputs(drafts)
    loss = open_losses(drafts)
    drop_dead(drafts)
    computed = settle_weights(graph, drafts, origins.laws)
    drop_dead(drafts)
    _mark_masks(drafts)
    cut_control(drafts)
    drop_dead(drafts)
    drafts = split_fused(drafts)
    fold_constants(drafts, law_after)
    fuse_dropout(drafts)
    drop_empty(drafts)
    join_identities(drafts)
    fold_masks(drafts)
    fuse_log_softmax(drafts)
    resolve_writes(drafts)
    drop_zero_states(drafts)
    fuse_activations(drafts)
    drop_dead(drafts)
    drafts = stop_gradients(drafts)
    drafts = renumbered(drafts)
    drafts = renumbered(fold_loops(drafts))
    drop_dead(drafts)
    drafts = renumbered(drafts)
    axes = infer_axes(drafts)
    _complete_inputs(drafts)
    wrapped = wrapped_paths(module)
    made_at = {clean_path(path, wrapped): place for path, place in origins.constructors.items()}
    nodes = tuple(_node(draft, axes[key], made_at) for key, draft in drafts.items())
    known = replace(origins, laws={**origins.laws, **computed})
    name = class_name(module)
    return ModelGraph(name, nodes, parameters_of(module, known), class_name=name, loss=loss)


def _mark_masks(drafts: Drafts) -> None:
    """Comparisons are constants that came out of a decision; remember that before their edges are cut."""
    for draft in drafts.values():
        if draft.kind == "constant" and draft.inputs and draft.dtype == "bool":
            draft.attributes = {"value": None, "mask": True}


def _node(draft: Draft, axes: tuple[int | None, int | None], made_at: Mapping[str, Location]) -> Node:
    batch, feature = axes
    shape = draft.shape
    if feature is not None and shape is not None and feature == len(shape) - 1:
        feature = -1
    own = draft.kind not in ("parameter", "constant") and draft.name.partition("#")[0] == draft.path
    return Node(
        draft.key,
        draft.kind,
        draft.op,
        draft.name,
        tuple(draft.inputs),
        shape,
        {k: v for k, v in draft.attributes.items() if k != "output"},
        draft.parameters,
        draft.path,
        feature,
        batch,
        draft.location,
        made_at.get(draft.path) if own else None,
    )


def _complete_inputs(drafts: Drafts) -> None:
    """Say of each input what law its elements have, and of ids how many there are."""
    for draft in drafts.values():
        if draft.kind == "input" and "law" not in draft.attributes:
            draft.attributes["law"] = "normal" if draft.floating else "ids"
        if draft.kind == "embedding" and draft.inputs:
            source = drafts[draft.inputs[0]]
            if source.kind == "input" and draft.attributes.get("num_embeddings"):
                source.attributes.setdefault("high", draft.attributes["num_embeddings"])


def parameters_of(module: nn.Module, origins: Origins) -> tuple[Parameter, ...]:
    """The module's parameters and buffers with what is known of their laws; a tied one once."""
    wrapped = wrapped_paths(module)

    def clean(name: str) -> str:
        return clean_path(name, wrapped)

    others: dict[int, list[str]] = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        others.setdefault(id(p), []).append(name)
    found = []
    for name, p in module.named_parameters():
        aliases = tuple(dict.fromkeys([*others[id(p)][1:], *origins.aliases.get(name, ())]))
        law = next((origins.laws[n] for n in (name, *aliases) if n in origins.laws), None)
        found.append(
            Parameter(
                clean(name),
                tuple(p.shape),
                law,
                p.requires_grad,
                aliases=tuple(clean(a) for a in aliases),
                frozen_by=origins.frozen_by.get(name),
            )
        )
    for name, b in module.named_buffers():
        found.append(Parameter(clean(name), tuple(b.shape), origins.laws.get(name), False, buffer=True))
    return tuple(found)
