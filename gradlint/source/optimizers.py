"""Optimizers of a script: algorithm, learning rate, parameter groups, schedules."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

from gradlint.source.evaluate import Evaluator
from gradlint.source.groups import Groups
from gradlint.source.index import Scope, location
from gradlint.source.keywords import spread
from gradlint.source.model_names import MAX_NAMES
from gradlint.source.models import Models, variable_of
from gradlint.source.resolve import resolution, resolve
from gradlint.source.script import Optimizer, ParameterGroup, Schedule
from gradlint.source.signatures import parameter_default
from gradlint.source.things import (
    ClassThing,
    External,
    Group,
    Instance,
    Items,
    Member,
    Thing,
    Things,
    external_name,
)
from gradlint.source.timm_optimizers import algorithm_of, spelled_out
from gradlint.source.value import UNKNOWN, Resolution, Value

DEFAULT_RATES: dict[str, float] = {
    "SGD": 1e-3,
    "Adam": 1e-3,
    "AdamW": 1e-3,
    "SparseAdam": 1e-3,
    "Adamax": 2e-3,
    "NAdam": 2e-3,
    "RAdam": 1e-3,
    "Adagrad": 1e-2,
    "Adadelta": 1.0,
    "RMSprop": 1e-2,
    "Rprop": 1e-2,
    "ASGD": 1e-2,
    "LBFGS": 1.0,
    "Lion": 1e-4,
    "Lamb": 1e-3,
    "LAMB": 1e-3,
    "FusedAdam": 1e-3,
    "FusedLAMB": 1e-3,
    "RangerAdaBelief": 1e-3,
    "AdaBelief": 1e-3,
    "AdamP": 1e-3,
    "SGDP": 1e-3,
    "AdaBound": 1e-3,
    "Ranger": 1e-3,
}
"""Each optimizer's own default rate (torch.optim, apex, lion-pytorch, as documented)."""

_LIBRARIES = (
    "torch.optim.",
    "apex.optimizers.",
    "bitsandbytes.optim.",
    "lion_pytorch.",
    "torch_optimizer.",
    "timm.optim.",
    "deepspeed.ops.",
    "adamp.",
    "madgrad.",
    "ranger",
    "adabelief_pytorch.",
    "torch.distributed.optim.",
    "adabound.",
    "radam.",
    "fairscale.optim.",
    "schedulefree.",
    "prodigyopt.",
    "dadaptation.",
    "colossalai.nn.optimizer.",
)
_IN_MODEL_LIBRARIES = re.compile(
    r"(?:pytorch_pretrained_bert|pytorch_transformers|transformers)\.(?:\w+\.)*"
    r"(?:BertAdam|OpenAIAdam|AdamW|AdamWeightDecay|Adafactor|create_optimizer\w*)"
)
"""Optimizers of packages that hold models and schedules beside them."""

_NOT_OPTIMIZERS = re.compile(
    r"lr_scheduler|get_\w*schedule|swa_utils\.(SWALR|AveragedModel|update_bn)|_LRScheduler|create_sched"
)

TIMM_FACTORIES = ("timm.optim.create_optimizer", "timm.optim.optim_factory.create_optimizer")

_WARMUP = re.compile(r"warm_?up", re.IGNORECASE)


@lru_cache(MAX_NAMES)
def optimizer_algorithm(name: str) -> str | None:
    """The algorithm that an outside constructor makes ("" when the name was not known), or None if it is none."""
    known = name.startswith(_LIBRARIES) or _IN_MODEL_LIBRARIES.fullmatch(name) is not None
    if not known or _NOT_OPTIMIZERS.search(name):
        return None
    last = name.rpartition(".")[2]
    if last == "*" or last.startswith("create_optimizer"):
        return ""
    if last in {"BertAdam", "OpenAIAdam"}:
        return "AdamW"
    return last.removesuffix("8bit").removeprefix("DeepSpeedCPU").removeprefix("Paged") if last[:1].isupper() else None


class Optimizers:
    """The optimizers that a script speaks of; each construction is one `Optimizer`."""

    def __init__(self, evaluator: Evaluator, models: Models) -> None:
        self.evaluator = evaluator
        self.models = models
        self._made: dict[int, Optimizer] = {}
        self.groups = Groups(evaluator, models)

    def algorithm(self, thing: Thing) -> str | None:
        """The algorithm of an optimizer instance ("" if not known), or None if the thing is no optimizer."""
        match thing:
            case Instance(cls=ClassThing(scope)):
                names = self.evaluator.base_names(scope)
                if any(n in {"torch.optim.Optimizer", "torch.optim.optimizer.Optimizer"} for n in names):
                    return scope.name
                for name in names:
                    known = optimizer_algorithm(name)
                    if known is not None:
                        return known
            case Instance(cls=cls) if not isinstance(cls, Instance):
                return optimizer_algorithm(external_name(cls) or "")
        return None

    def keys(self, things: Things) -> set[int]:
        """The keys of the optimizer constructions behind things."""
        return {r.key for r in self.roots(things)}

    def roots(self, things: Things, depth: int = 0) -> list[Instance]:
        """The optimizer constructions behind things, through wrappers and containers."""
        found: list[Instance] = []
        for thing in things:
            if isinstance(thing, Instance) and self.algorithm(thing) is not None:
                found.append(thing)
                continue
            if depth > 4:
                continue
            match thing:
                case Group(elements):
                    found.extend(r for e in elements for r in self.roots(e, depth + 1))
                case Items():
                    found.extend(self.roots(self.evaluator.elements(thing), depth + 1))
                case Instance(cls=ClassThing(scope)) if not self.models.is_module(scope):
                    for name in ("optimizer", "_optimizer", "optim", "_optim", "opt", "base_optimizer"):
                        if name in scope.attributes:
                            found.extend(self.roots(self.evaluator.attribute(thing, name), depth + 1))
                            break
                case Member(owner=owner, name="optimizer" | "_optimizer" | "[]"):
                    found.extend(self.roots((owner,), depth + 1))
        return found

    def of(self, things: Things) -> list[Optimizer]:
        """The optimizers among things."""
        roots = self.roots(things)
        merged: dict[int, list[Instance]] = {}
        for root in roots:
            merged.setdefault(root.key, []).append(root)
        return [self.optimizer(group[0], group) for group in merged.values()]

    def optimizer(self, root: Instance, twins: list[Instance] | None = None) -> Optimizer:
        """The `Optimizer` of a construction; `twins` are the same call with other candidates for the class."""
        found = self._made.get(root.key)
        if found is None:
            with self.evaluator.question(30000):
                found = self._made[root.key] = self._describe(root, twins or [root])
        return found

    def _describe(self, root: Instance, twins: list[Instance]) -> Optimizer:
        call = root.call
        scope, frame = root.scope, root.frame
        names = tuple(dict.fromkeys(a for t in twins if (a := self.algorithm(t))))
        where = location(scope.file, call if call is not None else scope.node)
        if call is None:
            return Optimizer("optimizer", names, where, (ParameterGroup((), "all", UNKNOWN),), UNKNOWN)
        by_timm = spelled_out(call) if (external_name(root.cls) or "").endswith(TIMM_FACTORIES) else None
        if by_timm is not None:
            call = by_timm
        distributed = (external_name(root.cls) or "").endswith("DistributedOptimizer")
        keywords = {k.arg: k.value for k in call.keywords if k.arg}
        positional = list(call.args)
        if distributed:
            # dist_autograd's DistributedOptimizer(optimizer_class, params_rref, *args, **kwargs)
            named = self.evaluator.ask(positional[0], scope, frame) if positional else ()
            names = tuple(a for t in named if (a := optimizer_algorithm(external_name(t) or "")))
            positional = positional[1:]
        if by_timm is not None:
            options = resolve(self.evaluator, keywords["opt"], scope, frame).values
            names = tuple(dict.fromkeys(a for v in options if (a := algorithm_of(v.value)))) or names
        own: dict[str | None, ast.expr] = {}
        inside = scope
        rate_name = "lr" if "lr" in keywords else "learning_rate"
        rate_node = keywords.get(rate_name) or (
            positional[1] if len(positional) > 1 and not isinstance(positional[1], ast.Starred) else None
        )
        rate = self._rate(rate_node, call, names, root)
        parameters = (
            positional[0] if positional else keywords.get("params") or keywords.get("model_params") or own.get("params")
        )
        groups = self.groups.of(parameters, rate, inside, frame) if parameters is not None else ()
        momentum = UNKNOWN
        if "momentum" in keywords:
            momentum = resolve(self.evaluator, keywords["momentum"], scope, frame)
        elif given := spread(self.evaluator, call, "momentum", scope, frame):
            momentum = resolution(self.evaluator, given)
        elif names in {("SGD",), ("RMSprop",)}:
            if names == ("SGD",) and len(positional) > 2:
                momentum = resolve(self.evaluator, positional[2], scope, frame)
            else:
                momentum = Resolution((Value(0.0, where, (f"{names[0]}'s own default",)),))
        arguments = {
            k: resolve(self.evaluator, v, scope, frame)
            for k, v in keywords.items()
            if by_timm is None and k not in {"params", "model_params", "lr", "learning_rate", "momentum"}
        }
        text = ast.unparse(parameters) if parameters is not None else ""
        return Optimizer(
            name=variable_of(root) or "optimizer",
            algorithms=names,
            location=where,
            groups=tuple(groups) or (ParameterGroup((), "some", rate, expression=text),),
            learning_rate=rate,
            momentum=momentum,
            arguments=arguments,
            schedules=tuple(self._schedules(root)),
            layer_decay=bool(re.search(r"layer_?decay|layerwise|lr_decay_rate|llrd", text))
            or "layer_decay" in scope.words,
        )

    def _rate(self, node: ast.expr | None, call: ast.Call, names: tuple[str, ...], root: Instance) -> Resolution:
        if node is not None:
            return resolve(self.evaluator, node, root.scope, root.frame)
        if any(k.arg is None for k in call.keywords):
            found = resolution(self.evaluator, spread(self.evaluator, call, "lr", root.scope, root.frame))
            return found if found.values else Resolution(unknown="the arguments are put together at run time")
        if isinstance(root.cls, ClassThing):
            init = next((m for c in self.evaluator.mro(root.cls.scope) if (m := c.method("__init__"))), None)
            default = parameter_default(init, "lr") if init is not None else None
            if init is not None and default is not None:
                return resolve(self.evaluator, default, init.parent or init)
        where = location(root.scope.file, call)
        values = tuple(Value(DEFAULT_RATES[n], where, (f"{n}'s own default",)) for n in names if n in DEFAULT_RATES)
        return Resolution(values) if values else Resolution(unknown="the optimizer's own default is not known")

    # -- schedules -----------------------------------------------------------------------------------------

    def _schedules(self, root: Instance) -> list[Schedule]:
        """The schedules in the optimizer's file that are built on it."""
        found: list[Schedule] = []
        index = self.evaluator.index(root.scope.file)
        for name, sites in index.calls_by_name.items():
            if not (
                name.endswith(("LR", "Plateau", "Restarts", "schedule", "Schedule", "warmup", "Scheduler", "scheduler"))
                or "schedule" in name
            ):
                continue
            for site in sites:
                first = next((k.value for k in site.node.keywords if k.arg == "optimizer"), None) or (
                    site.node.args[0] if site.node.args else None
                )
                if first is None:
                    continue
                roots = self.roots(self.evaluator.ask(first, site.scope))
                if name == "get_scheduler" and len(site.node.args) > 1 and not roots:
                    roots = self.roots(self.evaluator.ask(site.node.args[1], site.scope))
                if root.key in {r.key for r in roots} and not self.evaluator.dead(site.path, site.scope):
                    found.append(self._schedule(site.node, site.scope, name))
        return found

    def _schedule(self, call: ast.Call, scope: Scope, name: str) -> Schedule:
        where = location(scope.file, call)
        keywords = {k.arg: k.value for k in call.keywords if k.arg}
        if name in {"OneCycleLR", "CyclicLR"}:
            position = 1 if name == "OneCycleLR" else 2
            node = keywords.get("max_lr") or (call.args[position] if len(call.args) > position else None)
            return Schedule(name, where, None, resolve(self.evaluator, node, scope), name == "OneCycleLR" or None)
        if _WARMUP.search(name) or name == "get_scheduler":
            node = (
                keywords.get("num_warmup_steps")
                or keywords.get("warmup_steps")
                or (call.args[1] if len(call.args) > 1 and name != "get_scheduler" else None)
            )
            steps = resolve(self.evaluator, node, scope)
            zero = steps.only is not None and steps.only.value == 0
            return Schedule(name, where, 1.0, None, False if zero else (True if node is not None else None))
        if name in {"LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}:
            text = ast.unparse(call)
            return Schedule(name, where, None, None, True if _WARMUP.search(text) else None)
        if name == "LinearLR":
            return Schedule(name, where, 1.0, None, True)
        decays = name.endswith("LR") or name in {"ReduceLROnPlateau", "CosineAnnealingWarmRestarts"}
        return Schedule(name, where, 1.0 if decays else None, None, False if decays else None)


def is_schedule(thing: Thing) -> bool:
    """Whether a thing is a learning-rate schedule."""
    name = external_name(thing) if isinstance(thing, (Instance, External)) else None
    return name is not None and ("lr_scheduler" in name or "schedule" in name.rpartition(".")[2].lower())
