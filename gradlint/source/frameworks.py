"""Training loops that a framework runs: Lightning's Trainer and transformers' Trainer, with their own clipping."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

from gradlint.location import Location
from gradlint.source import arithmetic
from gradlint.source.evaluate import Evaluator
from gradlint.source.index import CallSite, FileIndex, location, terminal_name
from gradlint.source.instantiation import configured_calls, written
from gradlint.source.models import Models
from gradlint.source.optimizers import Optimizers
from gradlint.source.resolve import resolve
from gradlint.source.script import Clipping, Model, Optimizer, ParameterGroup, Schedule, TrainingStep
from gradlint.source.things import ClassThing, Instance, Things, external_name
from gradlint.source.value import UNKNOWN, Resolution, Value

HF_RATE = 5e-5
HF_MAX_NORM = 1.0
"""`TrainingArguments.learning_rate` and `max_grad_norm` where they are omitted (transformers documentation)."""

TRL_RATES = {"SFTConfig": 2e-5, "DPOConfig": 1e-6, "RewardConfig": 1e-4, "GRPOConfig": 1e-6}
"""trl's own defaults of `learning_rate`."""

_ARGUMENTS = re.compile(r"(TrainingArguments|SFTConfig|DPOConfig|RewardConfig|GRPOConfig|TrainingConfig)$")
_TRAINER = re.compile(r"(^|\.)\w*Trainer$")


class Frameworks:
    """Finds the steps that stand in no visible loop."""

    def __init__(self, evaluator: Evaluator, models: Models, optimizers: Optimizers) -> None:
        self.evaluator = evaluator
        self.models = models
        self.optimizers = optimizers

    def of(self, index: FileIndex) -> list[TrainingStep]:
        """The steps of Trainers that a file constructs."""
        found = [s for site in configured_calls(self.evaluator, index) for s in self._lightning(site, index)]
        for name, sites in index.calls_by_name.items():
            if not name.endswith("Trainer") and name != "from_argparse_args":
                continue
            for site in sites:
                maker = site.node.func
                if name == "from_argparse_args" and isinstance(maker, ast.Attribute):
                    maker = maker.value
                names = self._names(self.evaluator.ask(maker, site.scope))
                if self.evaluator.dead(site.path, site.scope):
                    continue
                if any("lightning" in n for n in names):
                    found += self._lightning(site, index)
                elif any(n.startswith(("transformers", "trl", "setfit", "sentence_transformers")) for n in names):
                    found.append(self._transformers(site))
        return found

    def _names(self, things: Things) -> list[str]:
        names: list[str] = []
        for thing in things:
            if isinstance(thing, ClassThing):
                names += self.evaluator.base_names(thing.scope)
            elif (name := external_name(thing)) is not None:
                names.append(name)
        return [n for n in names if _TRAINER.search(n)]

    # -- Lightning -----------------------------------------------------------------------------------------

    def _lightning(self, site: CallSite, index: FileIndex) -> list[TrainingStep]:
        found: list[TrainingStep] = []
        for fit in index.calls_by_name.get("fit", []):
            if not isinstance(fit.node.func, ast.Attribute):
                continue
            made = self.evaluator.ask(fit.node.func.value, fit.scope)
            if not any(isinstance(t, Instance) and t.call is site.node for t in made):
                continue
            node = (
                fit.node.args[0]
                if fit.node.args
                else next((k.value for k in fit.node.keywords if k.arg == "model"), None)
            )
            if node is None:
                continue
            roots = self.models.roots(self.evaluator.ask(node, fit.scope))
            for root in roots[:3]:
                found.append(self._lightning_step(site, root))
        return found

    def _lightning_step(self, site: CallSite, root: Instance) -> TrainingStep:
        keywords = {k.arg: k.value for k in site.node.keywords if k.arg}
        where = location(site.scope.file, site.node)
        clipping: Clipping | None = None
        if "gradient_clip_val" in keywords:
            bound = resolve(self.evaluator, keywords["gradient_clip_val"], site.scope)
            off = bound.only is not None and (bound.only.value is None or bound.only.value == 0)
            clipping = Clipping(
                "trainer argument", location(site.scope.file, keywords["gradient_clip_val"]), bound, enabled=not off
            )
        elif site.name == "from_argparse_args" and "gradient_clip_val" in site.scope.file.text:
            clipping = Clipping("config", where)
        else:
            for keyword in site.node.keywords:
                if keyword.arg is None:
                    clipping = self._spread(keyword.value, site) or clipping
        optimizers: list[Optimizer] = []
        cls = root.cls.scope if isinstance(root.cls, ClassThing) else None
        if cls is not None:
            for scope in self.evaluator.mro(cls):
                configure = scope.method("configure_gradient_clipping")
                hook = scope.method("on_before_optimizer_step") or scope.method("on_after_backward") or configure
                if hook is not None and any("clip" in w for w in hook.words):
                    clipping = clipping or Clipping("hook", location(scope.file, hook.node))
                made = scope.method("configure_optimizers")
                if made is not None and not optimizers:
                    for call in made.calls:
                        things = self.evaluator.ask(call.node, made)
                        roots = [
                            t
                            for t in things
                            if isinstance(t, Instance)
                            and written(t.call) is call.node
                            and self.optimizers.algorithm(t) is not None
                        ]
                        if roots:
                            optimizers.append(self.optimizers.optimizer(roots[0], roots))
        model = self.models.model(root)
        return TrainingStep(
            optimizer_step=where,
            backward=None,
            optimizer=optimizers[0] if optimizers else None,
            models=(model, *(m for o in optimizers for m in o.models if m != model and m.classes != model.classes)),
            clipping=clipping,
            function=site.scope.qualified_name,
            framework="lightning",
        )

    def _spread(self, node: ast.expr, site: CallSite) -> Clipping | None:
        for thing in self.evaluator.ask(node, site.scope):
            for element in self.evaluator.item(thing, "gradient_clip_val"):
                value = self.evaluator.plain_of(element)
                if value is not arithmetic.MISSING and value:
                    return Clipping("config", location(site.scope.file, node))
        return None

    # -- transformers --------------------------------------------------------------------------------------

    def _transformers(self, site: CallSite) -> TrainingStep:
        keywords = {k.arg: k.value for k in site.node.keywords if k.arg}
        model_node = keywords.get("model") or (site.node.args[0] if site.node.args else None)
        models: tuple[Model, ...] = ()
        if model_node is not None:
            models = self.models.of(self.evaluator.ask(model_node, site.scope))
        arguments_node = keywords.get("args") or (site.node.args[1] if len(site.node.args) > 1 else None)
        arguments = self._arguments(arguments_node, site)
        place = location(site.scope.file, site.node)
        rate, clipping, where, algorithm = self._settings(arguments, place)
        schedules: tuple[Schedule, ...] = ()
        given = arguments.call if arguments is not None else None
        if given is not None and arguments is not None:
            for keyword in given.keywords:
                if keyword.arg in {"warmup_steps", "warmup_ratio"}:
                    schedules = (Schedule("linear", location(arguments.scope.file, keyword.value), 1.0, None, True),)
        groups = (ParameterGroup(models, "all", rate, UNKNOWN, "model.parameters()", where),)
        optimizer: Optimizer | None = Optimizer(
            "trainer", (algorithm,) if algorithm else (), where, groups, rate, schedules=schedules
        )
        if "optimizers" in keywords:
            own = self.optimizers.of(self.evaluator.ask(keywords["optimizers"], site.scope))
            optimizer = own[0] if own else optimizer
        if "peft_config" in keywords:
            models = tuple(_with_adapter(m) for m in models)
        return TrainingStep(
            optimizer_step=where,
            backward=None,
            optimizer=optimizer,
            models=models,
            clipping=clipping,
            function=site.scope.qualified_name,
            framework="transformers",
        )

    def _arguments(self, node: ast.expr | None, site: CallSite) -> Instance | None:
        if node is None:
            return None
        for thing in self.evaluator.ask(node, site.scope):
            if isinstance(thing, Instance) and (
                _ARGUMENTS.search(external_name(thing.cls) or "")
                or (
                    isinstance(thing.cls, ClassThing)
                    and any(_ARGUMENTS.search(n) for n in self.evaluator.base_names(thing.cls.scope))
                )
            ):
                return thing
        return None

    def _settings(
        self, arguments: Instance | None, place: Location
    ) -> tuple[Resolution, Clipping | None, Location, str | None]:
        if arguments is None or arguments.call is None:
            unknown = Resolution(unknown="the training arguments are not in reach")
            return unknown, Clipping("trainer argument", place), place, None
        scope, frame = arguments.scope, arguments.frame
        keywords = {k.arg: k.value for k in arguments.call.keywords if k.arg}
        where = location(scope.file, arguments.call)
        parsed = isinstance(arguments.call.func, ast.Attribute) or terminal_name(arguments.call.func).endswith("Parser")
        kind = (external_name(arguments.cls) or "").rpartition(".")[2]
        default = TRL_RATES.get(kind, HF_RATE)
        if "learning_rate" in keywords:
            rate = resolve(self.evaluator, keywords["learning_rate"], scope, frame)
        elif parsed or any(k.arg is None for k in arguments.call.keywords):
            rate = Resolution(unknown="the learning rate is given on the command line")
        else:
            rate = Resolution((Value(default, where, (f"{kind or 'TrainingArguments'}'s own default",)),))
        bound = (
            resolve(self.evaluator, keywords["max_grad_norm"], scope, frame)
            if "max_grad_norm" in keywords
            else (Resolution((Value(HF_MAX_NORM, where, ("transformers' own default",)),)))
        )
        off = bound.only is not None and (bound.only.value is None or bound.only.value == 0)
        clipping = Clipping("trainer argument", where, bound, enabled=not off)
        algorithm: str | None = "AdamW"
        if "optim" in keywords:
            named = resolve(self.evaluator, keywords["optim"], scope, frame).only
            text = str(named.value) if named is not None else ast.unparse(keywords["optim"])
            algorithm = next(
                (
                    n
                    for w, n in (
                        ("adamw", "AdamW"),
                        ("adafactor", "Adafactor"),
                        ("sgd", "SGD"),
                        ("lion", "Lion"),
                        ("adagrad", "Adagrad"),
                    )
                    if w in text.lower()
                ),
                None,
            )
        elif "adafactor" in keywords:
            algorithm = "Adafactor"
        return rate, clipping, where, algorithm


def _with_adapter(model: Model) -> Model:
    return replace(model, adapter=model.adapter or "lora")
