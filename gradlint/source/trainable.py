"""Which constructions hold parameters that are there to be trained."""

from __future__ import annotations

import ast

from gradlint.source.index import CallSite, Scope
from gradlint.source.models import Models
from gradlint.source.things import ClassThing, External, Frame, Instance, Thing, external_name

WEIGHTED_LAYERS = frozenset(
    [
        *("Linear", "LazyLinear", "Bilinear", "Embedding", "EmbeddingBag", "MultiheadAttention", "Transformer"),
        *("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
        *("LazyConv1d", "LazyConv2d", "LazyConv3d", "RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"),
        *("TransformerEncoder", "TransformerDecoder", "TransformerEncoderLayer", "TransformerDecoderLayer"),
    ]
)
"""Layers of torch.nn with a weight matrix."""

NORMS = frozenset(
    [
        *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "LayerNorm", "GroupNorm", "RMSNorm"),
        *("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "PReLU"),
    ]
)
"""Layers of torch.nn whose parameters only scale and shift."""

FREEZES = frozenset({"requires_grad", "requires_grad_"})
"""Words of code that decides by itself what is trained."""

PARAMETER = frozenset({"torch.nn.Parameter", "torch.nn.parameter.Parameter"})

_CONTAINERS = frozenset({"Sequential", "ModuleList", "ModuleDict"})
MAX_CLASSES = 4
"""How many classes are looked into from one to another."""


class Trainable:
    """Answers whether a thing holds parameters: "weights", "scales" (norms and the like only) or None."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.evaluator = models.evaluator
        self._classes: dict[int, str | None] = {}

    def of(self, node: ast.expr, scope: Scope, frame: Frame | None = None) -> str | None:
        """What an expression that constructs a module holds; None where it is no construction, or loaded weights."""
        things = self.evaluator.ask(node, scope, frame)
        if not things or not all(isinstance(t, Instance) for t in things):
            return None
        return _least([self.held(t) for t in things])

    def held(self, thing: Thing, depth: int = 0) -> str | None:
        """What one constructed thing holds."""
        if not isinstance(thing, Instance) or thing.call is None:
            return None
        match thing.cls:
            case External(name) if name.startswith("torch.nn."):
                last = name.rpartition(".")[2]
                if last in WEIGHTED_LAYERS:
                    return "weights"
                if last in NORMS:
                    return "scales"
                if last in _CONTAINERS:
                    return self._given(thing.call, thing.scope, thing.frame, depth)
            case ClassThing(scope) if self.models.is_module(scope) and self.models.pretrained(thing) is None:
                return self.in_class(scope, depth)
        return None

    def in_class(self, scope: Scope, depth: int = 0) -> str | None:
        """What a module class constructs in its `__init__`."""
        key = id(scope)
        if key in self._classes or depth > MAX_CLASSES:
            return self._classes.get(key)
        self._classes[key] = None
        found: list[str | None] = []
        for cls in self.evaluator.mro(scope):
            init = cls.method("__init__")
            found += [self._made(site, depth) for site in (init.all_calls() if init else ())]
        self._classes[key] = _most(found)
        return self._classes[key]

    def _made(self, site: CallSite, depth: int) -> str | None:
        made: list[str | None] = []
        for thing in self.evaluator.ask(site.node.func, site.scope):
            if (external_name(thing) or "") in PARAMETER:
                made.append("weights")
            elif isinstance(thing, (External, ClassThing)):
                made.append(self.held(Instance(thing, site.node, site.scope), depth + 1))
        return _most(made)

    def _given(self, call: ast.Call, scope: Scope, frame: Frame | None, depth: int) -> str | None:
        found: list[str | None] = []
        for argument in call.args:
            inner = argument.value if isinstance(argument, ast.Starred) else argument
            things = self.evaluator.ask(inner, scope, frame)
            nested = [e for t in things for e in self.evaluator.elements(t)] if not _instances(things) else things
            found += [self.held(t, depth + 1) for t in nested]
        return _most(found)


def _instances(things: tuple[Thing, ...]) -> bool:
    return any(isinstance(t, Instance) for t in things)


def _most(found: list[str | None]) -> str | None:
    return "weights" if "weights" in found else "scales" if "scales" in found else None


def _least(found: list[str | None]) -> str | None:
    return None if None in found else "scales" if "scales" in found else "weights"


def mentions(scope: Scope, words: frozenset[str]) -> bool:
    """Whether a scope, or one inside it, reads or assigns a name or attribute of these."""
    stored = (key.rpartition(".")[2] for key in scope.stores)
    return (
        not words.isdisjoint(scope.words)
        or not words.isdisjoint(stored)
        or any(mentions(child, words) for child in scope.children)
    )
