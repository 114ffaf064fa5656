"""What calls of well-known outside functions give back: the same object, a constant, a configuration."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradlint.source import arithmetic, configuration
from gradlint.source.arguments import attribute_of_arguments
from gradlint.source.elements import Elements
from gradlint.source.eval_text import MAX_TEXT, parsed
from gradlint.source.hydra_configuration import MAKERS, interpolated
from gradlint.source.index import Scope
from gradlint.source.instantiation import Composed, Held, instantiated
from gradlint.source.things import (
    ClassThing,
    External,
    Frame,
    Group,
    Instance,
    Items,
    Member,
    ModuleThing,
    Plain,
    Thing,
    Things,
    Unknown,
)
from gradlint.source.value import Value

SAME_OBJECT = frozenset(
    [
        "torch.nn.DataParallel",
        "torch.nn.parallel.DataParallel",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn.parallel.distributed.DistributedDataParallel",
        "apex.parallel.DistributedDataParallel",
        "torch.distributed.fsdp.FullyShardedDataParallel",
        "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
        "torch.compile",
        "torch.jit.script",
        "torch.jit.trace",
        "copy.deepcopy",
        "copy.copy",
        "builtins.list",
        "builtins.tuple",
        "builtins.sorted",
        "builtins.iter",
        "builtins.reversed",
        "builtins.set",
        "builtins.vars",
        "torch.nn.SyncBatchNorm.convert_sync_batchnorm",
        "apex.parallel.convert_syncbn_model",
        "timm.models.convert_splitbn_model",
        "timm.models.convert_sync_batchnorm",
        "peft.prepare_model_for_kbit_training",
        "peft.prepare_model_for_int8_training",
        "omegaconf.OmegaConf.to_container",
        "fairscale.nn.data_parallel.ShardedDataParallel",
    ]
)
"""Functions that return their first argument, as far as gradients are concerned."""

SAME_RECEIVER = frozenset(
    [
        "to",
        "cuda",
        "cpu",
        "half",
        "float",
        "double",
        "bfloat16",
        "train",
        "eval",
        "requires_grad_",
        "share_memory",
        "clone",
        "copy",
        "xpu",
        "npu",
        "type",
        "contiguous",
        "merge_and_unload",
    ]
)
"""Methods of models and configurations that return their receiver."""

_PURE: dict[str, Callable[..., Any]] = {
    "builtins.float": float,
    "builtins.int": int,
    "builtins.str": str,
    "builtins.bool": bool,
    "builtins.abs": abs,
    "builtins.round": round,
    "builtins.min": min,
    "builtins.max": max,
    "builtins.len": len,
    "math.sqrt": math.sqrt,
    "math.log": math.log,
    "math.exp": math.exp,
    "math.pow": math.pow,
    "numpy.sqrt": math.sqrt,
    "os.path.join": lambda *parts: "/".join(parts),
    "pathlib.Path": lambda *parts: "/".join(parts) or ".",
}

_TEXT_METHODS = frozenset(
    [
        "lower",
        "upper",
        "strip",
        "lstrip",
        "rstrip",
        "replace",
        "startswith",
        "endswith",
        "format",
        "split",
        "rsplit",
        "partition",
        "rpartition",
        "removeprefix",
        "removesuffix",
        "capitalize",
    ]
)


def call_external(evaluator: Elements, name: str, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
    """What a call of an outside function returns."""
    first = node.args[0] if node.args and not isinstance(node.args[0], ast.Starred) else None
    if first is None and name in SAME_OBJECT:
        first = next((k.value for k in node.keywords if k.arg in {"module", "model"}), None)
    if name in SAME_OBJECT and first is not None:
        return evaluator.evaluate(first, scope, frame)
    if name in _PURE and not node.keywords:
        values = [list(evaluator.evaluate(a, scope, frame)) for a in node.args]
        if all(len(v) >= 1 and all(isinstance(t, Plain) for t in v) for v in values) and values:
            return _pure(_PURE[name], [v[0] for v in values if isinstance(v[0], Plain)], values)
    if name == "builtins.getattr" and len(node.args) >= 2:
        return _getattr(evaluator, node, scope, frame)
    if name == "builtins.next" and first is not None:
        return tuple(e for t in evaluator.evaluate(first, scope, frame) for e in evaluator.elements(t))
    if name in {"builtins.globals", "builtins.locals"}:
        return (Member(ModuleThing(scope.file), "__dict__"),)
    if name == "builtins.eval" and first is not None:
        return _evaluated(evaluator, first, node, scope, frame)
    if name == "importlib.import_module" and first is not None:
        return _import_module(evaluator, first, scope, frame)
    if name.endswith(configuration.LOADERS) and first is not None:
        return _configuration(evaluator, first, scope, frame, "OmegaConf" in name)
    if name in MAKERS:
        return instantiated(evaluator, node, scope, frame)
    if name in {"deepspeed.initialize", "apex.amp.initialize", "amp.initialize"}:
        model = next((k.value for k in node.keywords if k.arg == "model"), None)
        optimizer = next((k.value for k in node.keywords if k.arg == "optimizer"), None)
        if name != "deepspeed.initialize" and node.args:
            model = model or node.args[0]
            optimizer = optimizer or (node.args[1] if len(node.args) > 1 else None)
        parts = [
            evaluator.evaluate(p, scope, frame) if p is not None else (Unknown("not passed"),)
            for p in (model, optimizer)
        ]
        return (Group((*parts, (Unknown("a data loader"),), (Unknown("a schedule"),))),)
    if name in {"tyro.cli", "simple_parsing.parse", "draccus.parse", "chz.entrypoint"} and first is not None:
        return tuple(
            Instance(t, None, t.scope) if isinstance(t, ClassThing) else t
            for t in evaluator.evaluate(first, scope, frame)
        )
    if name == "functools.partial" and first is not None:
        if len(node.args) > 1 or node.keywords:
            return (Instance(External(name), node, scope, frame),)
        return evaluator.evaluate(first, scope, frame)
    return (Instance(External(name), node, scope, frame),)


def curried(partial: Instance, node: ast.Call, scope: Scope) -> ast.Call:
    """The call that a call of `functools.partial(…)` comes to; what cannot be read from here is left unknown."""
    assert partial.call is not None
    outer: Scope | None = scope
    while outer is not None and outer is not partial.scope:
        outer = outer.parent

    def seen(value: ast.expr) -> ast.expr:
        within = outer is not None or isinstance(value, (ast.Constant, Held))
        return value if within else ast.copy_location(ast.Name("<given elsewhere>", ast.Load()), value)

    named = {k.arg for k in node.keywords}
    call = Composed(
        seen(partial.call.args[0]),
        [*map(seen, partial.call.args[1:]), *node.args],
        [
            *(ast.keyword(k.arg, seen(k.value)) for k in partial.call.keywords if k.arg is None or k.arg not in named),
            *node.keywords,
        ],
    )
    call.written = node
    return ast.copy_location(call, node)


def _pure(function: Callable[..., Any], firsts: list[Plain], values: list[list[Thing]]) -> Things:
    if any(len(v) != 1 for v in values) and len(values) != 1:
        return (Unknown("it is computed from several candidates"),)
    found: list[Thing] = []
    combinations = [[t] for t in values[0]] if len(values) == 1 else [firsts]
    for combination in combinations:
        plain = [t.value for t in combination if isinstance(t, Plain)]
        try:
            result = function(*(v.value for v in plain))
        except Exception:
            return (Unknown("it cannot be computed from the source"),)
        if plain:
            v = plain[0]
            found.append(Plain(Value(result, v.origin, v.way, v.conditional, v.overridable)))
    return tuple(found) or (Unknown("it cannot be computed from the source"),)


def _getattr(evaluator: Elements, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
    found: list[Thing] = []
    names = [evaluator.plain_of(t) for t in evaluator.evaluate(node.args[1], scope, frame)]
    for owner in evaluator.evaluate(node.args[0], scope, frame):
        for name in names:
            if isinstance(name, str):
                things = evaluator.attribute(owner, name)
                if len(node.args) > 2 and all(isinstance(t, (Unknown, Member)) for t in things):
                    things = evaluator.evaluate(node.args[2], scope, frame)
                found.extend(things)
            elif isinstance(owner, External):
                found.append(External(f"{owner.name}.*"))
            elif isinstance(owner, ModuleThing):
                found.extend(ClassThing(c) for c in evaluator.index(owner.file).module.children if c.kind == "class")
    return tuple(found) or (Unknown("which attribute is not known"),)


def _import_module(evaluator: Elements, name: ast.expr, scope: Scope, frame: Frame | None) -> Things:
    found: list[Thing] = []
    for thing in evaluator.evaluate(name, scope, frame):
        text = evaluator.plain_of(thing)
        if isinstance(text, str):
            file = evaluator.module(text, scope.file)
            found.append(ModuleThing(file) if file else External(text))
            continue
        prefix = _leading_text(name)
        if prefix and prefix.endswith("."):
            found.extend(ModuleThing(f) for f in _modules_of(evaluator, prefix.rstrip("."), scope))
    return tuple(found) or (Unknown("which module is not known"),)


def _evaluated(evaluator: Elements, text: ast.expr, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
    """What `eval("models." + name)` stands for, where the text is known."""
    found: list[Thing] = []
    for thing in evaluator.evaluate(text, scope, frame):
        words = evaluator.plain_of(thing)
        if isinstance(words, str) and len(words) <= MAX_TEXT:
            place = (id(node), hash(words))
            if place not in evaluator.composed:
                evaluator.composed[place] = parsed(words, node)
            tree = evaluator.composed[place]
            found += evaluator.evaluate(tree, scope, frame) if tree is not None else ()
    return tuple(found) or (Unknown("the text of `eval` is put together at run time"),)


def _leading_text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.BinOp(left=left):
            return _leading_text(left)
        case ast.JoinedStr(values=[first, *_]):
            return _leading_text(first)
        case ast.Call(func=ast.Attribute(value=value, attr="format")):
            return _leading_text(value).partition("{")[0]
    return ""


def _modules_of(evaluator: Elements, package: str, scope: Scope) -> list[Any]:
    folder = Path(scope.file.path).parent
    relative = Path(*package.split("."))
    for base in (folder, *folder.parents):
        names = evaluator.project.names_in(base / relative)
        if names:
            files = [evaluator.project.file(base / relative / n) for n in sorted(names) if n.endswith(".py")][:24]
            return [f for f in files if f is not None]
        if base == evaluator.project.root:
            break
    return []


def _configuration(
    evaluator: Elements, source: ast.expr, scope: Scope, frame: Frame | None, as_omegaconf: bool
) -> Things:
    found: list[Thing] = []
    for thing in evaluator.evaluate(source, scope, frame):
        for path in _paths(evaluator, thing):
            file = configuration.find(path, scope.file, evaluator.project)
            value = configuration.load(file) if file else None
            if value is not None and file is not None:
                found.append(Plain(replace(value, value=interpolated(value.value)) if as_omegaconf else value))
                evaluator.files[str(file)] = None
    return tuple(found) or (Unknown("a configuration file that is not at hand"),)


def _paths(evaluator: Elements, thing: Thing) -> list[str]:
    match thing:
        case Plain(value=v) if isinstance(v.value, str):
            return [v.value]
        case Instance(cls=External("builtins.open"), call=ast.Call(args=[first, *_]), scope=scope, frame=frame):
            return [p for t in evaluator.evaluate(first, scope, frame) for p in _paths(evaluator, t)]
        case Instance(cls=Member(owner=owner, name="open" | "read" | "read_text")):
            return _paths(evaluator, owner)
    return []


def call_member(
    evaluator: Elements, owner: Thing, name: str, node: ast.Call, scope: Scope, frame: Frame | None
) -> Things:
    """What a method of an object that is not looked into returns."""
    if name in SAME_RECEIVER and isinstance(owner, (Instance, Member)):
        return (owner,)
    match owner:
        case Plain(value=v) if isinstance(v.value, str) and name in _TEXT_METHODS:
            values = [evaluator.evaluate(a, scope, frame) for a in node.args]
            if all(len(x) == 1 and isinstance(x[0], Plain) for x in values) and not node.keywords:
                arguments = [x[0].value.value for x in values if isinstance(x[0], Plain)]
                try:
                    result = getattr(v.value, name)(*arguments)
                except Exception:
                    return (Unknown("the text cannot be computed"),)
                return (Plain(Value(result, v.origin, v.way, v.conditional, v.overridable)),)
            return (Unknown("the text is put together at run time"),)
        case Items(node=ast.Dict()) | Plain() | Instance() if name in {"get", "pop"} and node.args:
            return _get(evaluator, owner, node, scope, frame)
        case Items(node=ast.Dict()) if name == "values":
            return (Group((evaluator.item(owner, arithmetic.MISSING),)),)
    if name == "parse_known_args":
        return (Group(((Instance(Member(owner, name), node, scope, frame),), (Unknown("other arguments"),))),)
    if name in {"parse_args_into_dataclasses", "parse_json_file", "parse_dict", "parse_yaml_file"}:
        return _dataclasses(evaluator, owner)
    if name in {"prepare", "setup"} and node.args and not any(isinstance(a, ast.Starred) for a in node.args):
        parts = tuple(evaluator.evaluate(a, scope, frame) for a in node.args)
        return parts[0] if len(parts) == 1 else (Group(parts),)
    return (Instance(Member(owner, name), node, scope, frame),)


def _get(evaluator: Elements, owner: Thing, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
    found: list[Thing] = []
    for key in evaluator.evaluate(node.args[0], scope, frame):
        plain = evaluator.plain_of(key)
        if isinstance(owner, Instance):
            things = attribute_of_arguments(evaluator, owner, plain) if isinstance(plain, str) else ()
            if not things:
                return (Instance(Member(owner, "get"), node, scope, frame),)
        else:
            things = evaluator.item(owner, plain)
        if all(isinstance(t, Unknown) for t in things):
            default = node.args[1] if len(node.args) > 1 else None
            things = evaluator.evaluate(default, scope, frame) if default else (evaluator.plain(None, node, scope),)
        found.extend(things)
    return tuple(found)


def _dataclasses(evaluator: Elements, parser: Thing) -> Things:
    if not (isinstance(parser, Instance) and parser.call is not None and parser.call.args):
        return (Unknown("which dataclasses are parsed is not known"),)
    parts: list[Things] = []
    for thing in evaluator.evaluate(parser.call.args[0], parser.scope, parser.frame):
        classes = evaluator.elements(thing) if isinstance(thing, (Items, Group)) else (thing,)
        for cls in classes:
            match cls:
                case ClassThing(scope=inner):
                    parts.append((Instance(cls, None, inner),))
                case External():
                    parts.append((Instance(cls, parser.call, parser.scope, parser.frame),))
    return (Group(tuple(parts)),)
