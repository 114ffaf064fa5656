"""Which parameters an optimizer is given: whose, which part, under which rate."""

from __future__ import annotations

import ast
import re

from gradlint.source.evaluate import Evaluator
from gradlint.source.index import Scope, dotted, location, terminal_name
from gradlint.source.models import Models
from gradlint.source.pretrained import BACKBONE_NAME, HEAD_NAME
from gradlint.source.resolve import resolve
from gradlint.source.script import Model, ParameterGroup
from gradlint.source.things import Frame, FunctionThing, Group, Instance, Items, Member, Thing
from gradlint.source.value import UNKNOWN, Resolution


class Groups:
    """Reads an optimizer's first argument."""

    def __init__(self, evaluator: Evaluator, models: Models) -> None:
        self.evaluator = evaluator
        self.models = models

    def of(
        self, node: ast.expr, rate: Resolution, scope: Scope, frame: Frame | None, depth: int = 0
    ) -> list[ParameterGroup]:
        """The parameter groups that an expression stands for; at least one."""
        things = self.evaluator.evaluate(node, scope, frame)
        found = [g for t in things for g in self._thing(t, rate, depth)]
        found += self._appended(node, rate, scope, frame) if depth == 0 else []
        text = ast.unparse(node)
        place = location(scope.file, node)
        return [
            g if g.expression else ParameterGroup(g.models, g.part, g.learning_rate, g.weight_decay, text[:300], place)
            for g in found
        ] or [ParameterGroup((), _part_of_text(text), rate, UNKNOWN, text[:300], place)]

    def _thing(self, thing: Thing, rate: Resolution, depth: int) -> list[ParameterGroup]:
        if depth > 5:
            return []
        match thing:
            case Items(node=ast.Dict(keys=keys, values=values), scope=scope, frame=frame):
                return self._dict(thing, keys, values, rate, scope, frame, depth)
            case Items(node=ast.List(elts=e) | ast.Tuple(elts=e) | ast.Set(elts=e), scope=scope, frame=frame):
                found = [
                    g
                    for x in e[:24]
                    for g in self.of(x.value if isinstance(x, ast.Starred) else x, rate, scope, frame, depth + 1)
                ]
                return _merged(found)
            case Items(node=(ast.ListComp() | ast.GeneratorExp() | ast.SetComp()) as node, scope=scope, frame=frame):
                return self._comprehension(node, rate, scope, frame, depth)
            case Group(elements):
                return _merged([g for e in elements for t in e for g in self._thing(t, rate, depth + 1)])
            case Instance(cls=Member(owner=owner, name=name)) if name in {
                "parameters",
                "named_parameters",
                "trainable_parameters",
                "values",
                "items",
                "get_parameters",
            }:
                part, models = self._owner(owner)
                return [ParameterGroup(models, part, rate)]
            case Instance(cls=cls, call=ast.Call() as call, scope=scope, frame=frame):
                return self._wrapped(cls, call, rate, scope, frame, depth)
            case Member(owner=owner, name="[]"):
                return self._thing(owner, rate, depth + 1)
        return []

    def _wrapped(
        self, cls: Thing, call: ast.Call, rate: Resolution, scope: Scope, frame: Frame | None, depth: int
    ) -> list[ParameterGroup]:
        """`filter(lambda p: p.requires_grad, …)`, `chain(a, b)`, `list(…)`, `param_groups_lrd(model, …)`."""
        name = terminal_name(call.func)
        if name == "filter" and len(call.args) == 2:
            trainable = "requires_grad" in ast.unparse(call.args[0])
            inner = self.of(call.args[1], rate, scope, frame, depth + 1)
            return [_with_part(g, "trainable" if trainable and g.part == "all" else g.part) for g in inner]
        found: list[ParameterGroup] = []
        for argument in call.args:
            node = argument.value if isinstance(argument, ast.Starred) else argument
            models = self.models.of(self.evaluator.evaluate(node, scope, frame))
            if models:
                part = "layers" if re.search("layer|lrd", name) else "all"
                found.append(ParameterGroup(models, part, rate))
            else:
                found += self.of(node, rate, scope, frame, depth + 1)
        return _merged([g for g in found if g.models])

    def _dict(
        self,
        thing: Thing,
        keys: list[ast.expr | None],
        values: list[ast.expr],
        rate: Resolution,
        scope: Scope,
        frame: Frame | None,
        depth: int,
    ) -> list[ParameterGroup]:
        table = {k.value: v for k, v in zip(keys, values, strict=True) if isinstance(k, ast.Constant)}
        if "params" not in table:
            return []
        own = resolve(self.evaluator, table["lr"], scope, frame) if "lr" in table else rate
        decay = resolve(self.evaluator, table.get("weight_decay"), scope, frame)
        inner = self.of(table["params"], own, scope, frame, depth + 1)
        text = ast.unparse(table["params"])
        models = tuple(dict.fromkeys(m for g in inner for m in g.models))
        parts = {g.part for g in inner}
        part = parts.pop() if len(parts) == 1 else "some"
        assert isinstance(thing, Items)
        return [ParameterGroup(models, part, own, decay, text[:300], location(scope.file, thing.node))]

    def _comprehension(
        self,
        node: ast.ListComp | ast.GeneratorExp | ast.SetComp,
        rate: Resolution,
        scope: Scope,
        frame: Frame | None,
        depth: int,
    ) -> list[ParameterGroup]:
        if isinstance(node.elt, ast.Dict):
            found = self.of(node.elt, rate, scope, frame, depth + 1)
            if any(g.models for g in found):
                return [_with_part(g, "layers" if len(node.generators) == 1 else g.part) for g in found]
        inner: list[ParameterGroup] = []
        for generator in node.generators:
            inner += self.of(generator.iter, rate, scope, frame, depth + 1)
        conditions = " ".join(ast.unparse(c) for g in node.generators for c in g.ifs)
        part = _part_of_condition(conditions)
        return [_with_part(g, part if part and g.part == "all" else g.part) for g in inner if g.models]

    def _appended(self, node: ast.expr, rate: Resolution, scope: Scope, frame: Frame | None) -> list[ParameterGroup]:
        """`params.append({…})`, `params += …`, `params.extend(…)` on a list that the program fills."""
        key = dotted(node)
        if key is None:
            return []
        found: list[ParameterGroup] = []
        holder: Scope | None = scope
        while holder is not None and key.partition(".")[0] not in holder.bindings:
            holder = holder.parent
        for site in (holder or scope).calls:
            if site.name in {"append", "extend"} and isinstance(site.node.func, ast.Attribute):
                if dotted(site.node.func.value) != key or not site.node.args:
                    continue
                if self.evaluator.dead(site.path, site.scope, frame):
                    continue
                groups = self.of(site.node.args[0], rate, site.scope, frame, 1)
                in_loop = any(b.kind == "loop" for b in site.path)
                tests = " ".join(ast.unparse(b.test) for b in site.path if b.test is not None and b.branch == 0)
                for group in groups:
                    models = group.models or self._loop_models(site.path, site.scope, frame)
                    part = group.part
                    if in_loop and part in {"all", "some"}:
                        part = _part_of_condition(tests) or "layers"
                    if models:
                        found.append(
                            _with_part(
                                ParameterGroup(
                                    models,
                                    part,
                                    group.learning_rate,
                                    group.weight_decay,
                                    group.expression,
                                    group.location,
                                ),
                                part,
                            )
                        )
        return found

    def _loop_models(self, path: tuple[object, ...], scope: Scope, frame: Frame | None) -> tuple[Model, ...]:
        for block in reversed(path):
            owner = getattr(block, "owner", None)
            if isinstance(owner, ast.For):
                groups = self.of(owner.iter, UNKNOWN, scope, frame, 2)
                models = tuple(m for g in groups for m in g.models)
                if models:
                    return models
        return ()

    def _owner(self, owner: Thing) -> tuple[str, tuple[Model, ...]]:
        """Whose parameters: the part and the models."""
        match owner:
            case Member(owner=inner, name=name):
                models = self.models.of((inner,))
                if name in {"module", "model"} and models:
                    return "all", models
                part = (
                    "head" if HEAD_NAME.search(name) else "backbone" if BACKBONE_NAME.search(name.lower()) else "some"
                )
                return part, models
            case Instance(scope=scope) if scope.owner_class is not None and self.models.is_module(scope.owner_class):
                # A submodule: the head or the backbone of the class that holds it.
                models = self.models.of((owner,))
                whole = self.models.pretrained_of_class(scope.owner_class, None)
                if whole is None:
                    return "all", models
                return ("backbone" if any(m.pretrained for m in models) else "head"), models
            case Group(elements):
                parts = [self._owner(t) for e in elements for t in e]
                return "all", tuple(dict.fromkeys(m for _, ms in parts for m in ms))
            case FunctionThing():
                return "some", ()
        return "all", self.models.of((owner,))


def _merged(groups: list[ParameterGroup]) -> list[ParameterGroup]:
    """Groups under the same rate as one."""
    found: list[ParameterGroup] = []
    for group in groups:
        same = next(
            (
                i
                for i, g in enumerate(found)
                if g.learning_rate is group.learning_rate and g.part == group.part and not g.location
            ),
            None,
        )
        if same is None:
            found.append(group)
        else:
            models = tuple(dict.fromkeys((*found[same].models, *group.models)))
            found[same] = ParameterGroup(models, group.part, group.learning_rate, group.weight_decay)
    return found


def _with_part(group: ParameterGroup, part: str) -> ParameterGroup:
    return ParameterGroup(group.models, part, group.learning_rate, group.weight_decay, group.expression, group.location)


def _part_of_condition(text: str) -> str | None:
    lowered = text.lower()
    if not text:
        return None
    if (
        "no_decay" in lowered
        or "bias" in lowered
        or "weight_decay" in lowered
        or "ndim" in lowered
        or "dim()" in lowered
    ):
        return "decay" if "not any" in lowered or "not in" in lowered or ">=" in lowered else "no_decay"
    if "requires_grad" in lowered:
        return "trainable"
    if "layer" in lowered:
        return "layers"
    negative = "not in" in lowered or "not any" in lowered or lowered.startswith("not ") or "!=" in lowered
    backbone = bool(BACKBONE_NAME.search(lowered))
    head = bool(re.search(r"fc|classifier|head|linear|cls", lowered))
    if backbone or head:
        return "head" if backbone is negative else "backbone"
    return "some"


def _part_of_text(text: str) -> str:
    lowered = text.lower()
    if "requires_grad" in lowered:
        return "trainable"
    match = re.search(r"\.(\w+)\.parameters\(\)", text)
    if match and HEAD_NAME.search(match[1]):
        return "head"
    return "some" if "get" in lowered or "group" in lowered else "all"
