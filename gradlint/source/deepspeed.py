"""DeepSpeed's own clipping: `gradient_clipping` of the configuration that the engine is made with."""

from __future__ import annotations

import ast

from gradlint.source import arithmetic, configuration
from gradlint.source.evaluate import Evaluator
from gradlint.source.index import CallSite, Scope, location
from gradlint.source.script import Clipping
from gradlint.source.things import Items, Plain, Thing, external_name

KEY = "gradient_clipping"
"""0 where it is omitted, which is none (DeepSpeed's configuration reference)."""


def engine_clipping(evaluator: Evaluator, step: Scope) -> Clipping | None:
    """What bounds the gradient of the engines that the file of a step makes; a configuration out of reach may do so."""
    index = evaluator.index(step.file)
    sites = [
        s
        for s in index.calls_by_name.get("initialize", [])
        if any(external_name(t) == "deepspeed.initialize" for t in evaluator.ask(s.node.func, s.scope))
    ]
    bounds = [_bound(evaluator, s) for s in sites]
    if bounds and all(b == 0 for b in bounds):
        return None
    return Clipping("config", location(step.file, sites[0].node if sites else step.node))


def _bound(evaluator: Evaluator, site: CallSite) -> object:
    """The bound that an engine is made with, None where its configuration cannot be read."""
    node = next((k.value for k in site.node.keywords if k.arg in {"config", "config_params"}), None)
    things = evaluator.ask(node, site.scope) if node is not None else ()
    return _value(evaluator, things[0], site) if len(things) == 1 else None


def _value(evaluator: Evaluator, thing: Thing, site: CallSite) -> object:
    match thing:
        case Plain(value=value) if isinstance(value.value, str):
            path = configuration.find(value.value, site.scope.file, evaluator.project)
            loaded = configuration.load(path) if path is not None else None
            return loaded.value.get(KEY, 0) if loaded is not None and isinstance(loaded.value, dict) else None
        case Plain(value=value) if isinstance(value.value, dict):
            return value.value.get(KEY, 0)
        case Items(node=ast.Dict(keys=keys)) if all(isinstance(k, ast.Constant) for k in keys):
            if not any(isinstance(k, ast.Constant) and k.value == KEY for k in keys):
                return 0
            plain = [evaluator.plain_of(e) for e in evaluator.item(thing, KEY)]
            return plain[0] if len(plain) == 1 and plain[0] is not arithmetic.MISSING else None
    return None
