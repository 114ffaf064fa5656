"""What command-line flags and configuration objects hold by default."""

from __future__ import annotations

import ast
import re

from gradlint.source.candidates import conditional, is_none
from gradlint.source.evaluation import Evaluation
from gradlint.source.hydra_configuration import composed
from gradlint.source.index import END, CallSite, FileIndex, Scope, first_parameter, location, terminal_name
from gradlint.source.keywords import passed
from gradlint.source.reaching import reaching
from gradlint.source.things import (
    External,
    Instance,
    Items,
    Member,
    Plain,
    Thing,
    Things,
    Unknown,
    external_name,
)
from gradlint.source.value import Value

NAMESPACES = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "easydict.EasyDict",
    "box.Box",
    "builtins.dict",
    "addict.Dict",
    "munch.Munch",
    "munch.munchify",
    "dotmap.DotMap",
    "ml_collections.ConfigDict",
    "omegaconf.OmegaConf.create",
    "yacs.config.CfgNode",
    "transformers.TrainingArguments",
    "transformers.PretrainedConfig",
    "collections.OrderedDict",
    "collections.namedtuple",
)
"""Constructors whose keyword arguments, or whose dict argument, become attributes or keys."""

PARSERS = ("ArgumentParser", "ArgParser", "Tap")


def is_parsed(thing: Thing) -> Instance | None:
    """The parser instance behind `parser.parse_args()`, or None."""
    match thing:
        case Instance(cls=Member(owner=Instance() as parser, name="parse_args" | "parse_known_args" | "parse")):
            return parser
    return None


def attribute_of_arguments(evaluator: Evaluation, instance: Instance, name: str) -> Things:
    """What `args.name` (or `args["name"]`) holds by default; empty when the object holds no such thing."""
    stored, certain = stored_on(evaluator, instance, name)
    if certain:
        return stored
    before = tuple(t for t in _given(evaluator, instance, name) if not (stored and is_none(t)))
    return (*(conditional(t) for t in stored), *before) if before else stored


def _given(evaluator: Evaluation, instance: Instance, name: str) -> Things:
    """What an object holds under a name as it was made."""
    parser = is_parsed(instance)
    if parser is not None:
        return flag(evaluator, parser, name)
    constructor = external_name(instance.cls) or ""
    if name == "value" and _ABSL_DEFINITION.fullmatch(constructor) and instance.call and len(instance.call.args) > 1:
        found = evaluator.evaluate(instance.call.args[1], instance.scope, instance.frame)
        return tuple(_as_flag(t, "absl default") for t in found)
    if constructor.endswith(NAMESPACES) and instance.call is not None:
        given = passed(evaluator, instance.call, name, instance.scope, instance.frame)
        if given:
            return given
        for argument in instance.call.args[:1]:
            for thing in evaluator.evaluate(argument, instance.scope, instance.frame):
                if isinstance(thing, (Items, Plain)):
                    return evaluator.item(thing, name)
    if name in {"module", "_orig_mod"}:
        return (instance,)
    return ()


def stored_on(evaluator: Evaluation, instance: Instance, name: str) -> tuple[Things, bool]:
    """What assignments where the object was made put under this attribute, `cfg.LR = …`, and whether that is all."""
    if instance.call is None:
        return (), False
    scope = instance.scope
    for key in scope.holders(instance.call):
        for full in (f"{key}.{name}", f"{key}[{name!r}]"):
            bindings = scope.stores.get(full)
            if bindings:
                # `args.lr = args.lr * 2` asks for what was there before.
                earlier = [b for b in bindings if b.value is None or not evaluator.is_asked(b.value)]
                found = [(b, p) for b, p in reaching(earlier, END, ()) if not evaluator.dead(p, scope, instance.frame)]
                things = tuple(t for b, _ in found for t in evaluator.binding(b, scope, instance.frame))
                if external_name(instance.cls) == "yacs.config.CfgNode":
                    things = tuple(_as_flag(t, "yacs default") for t in things)
                return things, any(not only_on for _, only_on in found)
    return (), False


def flag(evaluator: Evaluation, parser: Instance, name: str) -> Things:
    """The default of a parser's flag, by its destination."""
    files = [parser.scope.file, *evaluator.known_files]
    seen: set[str] = set()
    for file in files:
        if file.path in seen:
            continue
        seen.add(file.path)
        index = evaluator.index(file)
        for site in reversed(index.calls_by_name.get("set_defaults", [])):
            for keyword in site.node.keywords:
                if keyword.arg == name:
                    return evaluator.evaluate(keyword.value, site.scope)
        for site in _flags(index).get(name, ()):
            if _may_be(evaluator, site, parser, index.file.path):
                return _flag_default(evaluator, site, name)
    return _inherited_flag(evaluator, parser, name)


def _inherited_flag(evaluator: Evaluation, parser: Instance, name: str) -> Things:
    """The default of a flag that a parser has from one of its `parents=[…]`."""
    if parser.call is None:
        return ()
    parents = passed(evaluator, parser.call, "parents", parser.scope, parser.frame)
    for parent in (e for p in parents for e in evaluator.elements(p)):
        found = flag(evaluator, parent, name) if isinstance(parent, Instance) and parent.key != parser.key else ()
        if found:
            return found
    return ()


def _flags(index: FileIndex) -> dict[str, list[CallSite]]:
    """The `add_argument` calls of a file by their destination."""
    if index.flags is None:
        index.flags = {}
        for site in index.calls_by_name.get("add_argument", ()):
            index.flags.setdefault(destination(site.node) or "", []).append(site)
    return index.flags


def _may_be(evaluator: Evaluation, site: CallSite, parser: Instance, path: str) -> bool:
    """Whether `add_argument` may belong to this parser: it does not when its receiver is another one."""
    if not isinstance(site.node.func, ast.Attribute):
        return False
    for thing in evaluator.evaluate(site.node.func.value, site.scope):
        if isinstance(thing, Instance) and isinstance(thing.cls, External) and thing.cls.name.endswith(PARSERS):
            return thing.key == parser.key or path != parser.scope.file.path
    return True


def destination(call: ast.Call) -> str | None:
    """The attribute under which argparse stores an argument."""
    for keyword in call.keywords:
        if keyword.arg == "dest" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    flags = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    long = [f for f in flags if f.startswith("--")] or [f for f in flags if f.startswith("-")] or flags
    return long[0].lstrip("-").replace("-", "_") if long else None


def _flag_default(evaluator: Evaluation, site: CallSite, name: str) -> Things:
    keywords = {k.arg: k.value for k in site.node.keywords if k.arg}
    way = f"argparse default of --{name}"
    action = keywords.get("action")
    kind = action.value if isinstance(action, ast.Constant) else ""
    if "default" in keywords:
        converter = terminal_name(keywords["type"]) if "type" in keywords else ""
        found = evaluator.evaluate(keywords["default"], site.scope)
        return tuple(_as_flag(_converted(t, converter), way) for t in found)
    if kind in {"store_true", "store_false"}:
        return (evaluator.plain(kind == "store_false", site.node, site.scope, way, overridable=True),)
    positional = all(isinstance(a, ast.Constant) and not str(a.value).startswith("-") for a in site.node.args)
    required = keywords.get("required")
    if positional or (isinstance(required, ast.Constant) and required.value) or "choices" in keywords:
        return (Unknown(f"--{name} has no default"),)
    return (evaluator.plain(None, site.node, site.scope, way, overridable=True),)


def _converted(thing: Thing, converter: str) -> Thing:
    match thing:
        case Plain(value=v) if isinstance(v.value, str) and converter in {"float", "int"}:
            try:
                number = float(v.value) if converter == "float" else int(v.value)
            except ValueError:
                return thing
            return Plain(Value(number, v.origin, v.way, v.conditional, v.overridable))
    return thing


def _as_flag(thing: Thing, way: str) -> Thing:
    match thing:
        case Plain(value=v):
            return Plain(Value(v.value, v.origin, (way, *v.way), v.conditional, True))
    return thing


def parameter_option(evaluator: Evaluation, name: str, scope: Scope) -> Things:
    """The default that a click, typer or hydra decorator gives a function's parameter; empty if none does."""
    for decorator in getattr(scope.node, "decorator_list", ()):
        if not isinstance(decorator, ast.Call) or terminal_name(decorator.func) not in {"option", "argument"}:
            continue
        names = [
            a.value.lstrip("-").replace("-", "_")
            for a in decorator.args
            if isinstance(a, ast.Constant) and isinstance(a.value, str)
        ]
        if name not in names:
            continue
        outer = scope.parent or scope
        for keyword in decorator.keywords:
            if keyword.arg == "default":
                found = evaluator.evaluate(keyword.value, outer)
                return tuple(_as_flag(t, f"click default of --{name}") for t in found)
            if keyword.arg == "is_flag":
                return (evaluator.plain(False, decorator, outer, f"click default of --{name}", overridable=True),)
        return (Unknown(f"--{name} has no default"),)
    return ()


def configured(evaluator: Evaluation, name: str, scope: Scope) -> Things:
    """The configuration that hydra gives the first parameter of a function; empty where it gives none."""
    decorators = getattr(scope.node, "decorator_list", ())
    if not decorators or name != first_parameter(scope):
        return ()
    known = evaluator.configured.get(id(scope))
    if known is None:
        table = composed(decorators, scope.file.path, evaluator.project.trail.files)
        way = ("hydra's configuration",)
        known = (Plain(Value(table, location(scope.file, scope.node), way, overridable=True)),) if table else ()
        evaluator.configured[id(scope)] = known
    return known


ABSL_FLAGS = External("absl.flags.FLAGS")

_ABSL_DEFINITION = re.compile(r"absl\.flags\.DEFINE_(?:float|integer|bool|boolean|string|enum|list|multi_\w+)")


def absl_flag(evaluator: Evaluation, scope: Scope, name: str) -> Things:
    """The default of `flags.DEFINE_float("lr", 1e-3, …)` in the file of `scope`, which `FLAGS.lr` holds."""
    for kind, sites in evaluator.index_of(scope).calls_by_name.items():
        if not kind.startswith("DEFINE_"):
            continue
        for site in sites:
            arguments = site.node.args
            if len(arguments) >= 2 and isinstance(arguments[0], ast.Constant) and arguments[0].value == name:
                found = evaluator.evaluate(arguments[1], site.scope)
                return tuple(_as_flag(t, f"absl default of --{name}") for t in found)
    return (Unknown(f"--{name} is not defined in this file"),)
