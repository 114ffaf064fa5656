"""Finds the model instances of a file: what optimizers train, else what is constructed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gradlint.location import Location
from gradlint.source.script import Script
from gradlint.source.slice_names import names_bound, place, targets_of
from gradlint.source.slice_scopes import Scope, Scopes
from gradlint.source.slice_training import until_training
from gradlint.source.walking import walk

_OPTIMIZER = re.compile(
    r"(Adam|SGD|RMSprop|Adagrad|Adadelta|Adafactor|LAMB|Lamb|Lion|LBFGS|Rprop|NAdam|ASGD|Optimi[sz]er|Muon|Shampoo"
    r"|Novograd|LARS|create_optimizer|get_optimizer)"
)
_MODEL_LIBRARIES = re.compile(
    r"^(torchvision\.models\.|timm\.create_model|transformers\..*\.(from_pretrained|from_config)$"
    r"|segmentation_models_pytorch\.|torch\.hub\.load$|torch\.nn\.[A-Z][A-Za-z0-9]*$|peft\.get_peft_model)"
)
_NOT_A_MODEL = re.compile(r"(Tokenizer|Processor|FeatureExtractor|Config|Trainer|Dataset|Loss|_Weights)\b")
_IS_LOSS = re.compile(r"(Loss|Criterion|Metric|Metrics)$")
"""Classes that judge a model's output; to trace one it would need that output."""
_LISTS = frozenset(["keys", "items", "values", "list_models", "get_weight"])
_WRAPPERS = frozenset(["DataParallel", "DistributedDataParallel", "DDP", "compile", "convert_sync_batchnorm", "FSDP"])
_MOVES = frozenset(["to", "cuda", "cpu", "half", "train", "eval", "float", "double", "requires_grad_", "share_memory"])
_MAX_DEPTH = 8


@dataclass(frozen=True)
class Target:
    """A model instance: `expression` in `scope`, after everything before line `stop`."""

    scope: Scope
    expression: str
    stop: int
    call: ast.Call | None = None
    name: str = ""
    location: Location | None = None


def find_targets(scopes: Scopes, script: Script | None) -> list[Target]:
    """Every model instance of a file, in source order, once each."""
    found: dict[tuple[int, str], Target] = {}
    for target in _trained(scopes):
        key = (id(target.scope), target.expression)
        if key not in found or target.stop < found[key].stop:
            found[key] = target
    stated = list(_of_script(scopes, script)) if script is not None else []
    for target in stated or ([] if found else list(_constructed(scopes))):
        key = (id(target.scope), target.expression)
        known = found.get(key)
        if known is None:
            found[key] = target
        else:
            found[key] = Target(known.scope, known.expression, known.stop, target.call, target.name, target.location)
    complete = [t if t.call is not None else _with_call(t) for t in found.values()]
    complete = _without_makers(scopes, complete)
    by_call: dict[object, Target] = {}
    for target in complete:
        called = _last(target.call.func) if target.call is not None else ""
        if called in _LISTS or any(_IS_LOSS.search(name) for name in (called, target.name)):
            continue
        by_call.setdefault(id(target.call) if target.call is not None else object(), target)
    return sorted(by_call.values(), key=lambda t: (t.call.lineno if t.call else t.stop, t.expression))


def _without_makers(scopes: Scopes, targets: list[Target]) -> list[Target]:
    """The targets without constructions that a function returns, which another target calls: these are the same model.

    What is known of such a construction (its name and place) is told of the variable that holds the model.
    """
    by_call = {id(t.call): t for t in targets if t.call is not None}
    found: list[Target] = []
    dropped: set[int] = set()
    for target in targets:
        made = [by_call[id(c)] for c in _returned(scopes, target) if id(c) in by_call and by_call[id(c)] is not target]
        dropped |= {id(m) for m in made}
        same = made[0] if len(made) == 1 else None
        found.append(
            target if same is None else replace(target, call=same.call, name=same.name, location=same.location)
        )
    return [t for before, t in zip(targets, found, strict=True) if id(before) not in dropped]


def _returned(scopes: Scopes, target: Target) -> Iterator[ast.Call]:
    """The constructions that the function returns which a target's call calls."""
    called = unwrapped(target.call) if target.call is not None else None
    name = _last(called.func) if isinstance(called, ast.Call) else ""
    for maker in scopes.all:
        if maker.function is None or maker.name != name or maker.owner not in (None, target.scope.owner):
            continue
        for statement in maker.statements:
            value = unwrapped(statement.value) if isinstance(statement, ast.Return) and statement.value else None
            if isinstance(value, ast.Call):
                yield value


def _trained(scopes: Scopes) -> Iterator[Target]:
    """What reaches an optimizer through `.parameters()`."""
    for scope, statement, call in scopes.calls:
        if not _OPTIMIZER.search(scopes.qualified(call.func)):
            continue
        for receiver in _receivers(scope, call):
            yield from _origins(scopes, scope, receiver, statement.lineno, 0)


def _receivers(scope: Scope, call: ast.Call) -> list[ast.expr]:
    """`net` of every `net.parameters()` in the arguments, or in what a name among them was assigned."""
    found = _parameter_calls(call)
    for name in {a.id for a in call.args if isinstance(a, ast.Name)}:
        for statement in scope.statements:
            if any(isinstance(t, ast.Name) and t.id == name for t in targets_of(statement)):
                found += _parameter_calls(statement)
    return found


def _parameter_calls(node: ast.AST) -> list[ast.expr]:
    return [
        n.func.value
        for n in walk(node)
        if isinstance(n, ast.Call)
        and isinstance(n.func, ast.Attribute)
        and n.func.attr in ("parameters", "named_parameters")
    ]


def _origins(scopes: Scopes, scope: Scope, expression: ast.expr, stop: int, depth: int) -> Iterator[Target]:
    """Follow a model from where it is used to the variable that it is first put in."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(expression, ast.Call) and not _is_move(expression):
        yield Target(scope, ast.unparse(expression), stop, call=expression)
        return
    root = place(expression)
    if root in ("", "self", "cls"):
        if root == "self" and scope.owner is not None:
            yield from _instances(scopes, scope.owner)
        return
    if root.startswith("self."):
        yield from _attribute_origins(scopes, scope, root, depth)
        return
    if root in scope.parameters and not _constructs(scope, root):
        yield from _argument_origins(scopes, scope, root, depth)
        return
    holder: Scope | None = scope
    while holder is not None:
        if root in holder.bound or root in holder.parameters:
            if holder is not scope and root in holder.parameters:
                yield from _argument_origins(scopes, holder, root, depth)
                return
            if holder is scope:
                behind = max(_behind_branches(scope, root, stop), until_training(scopes, scope, root, stop))
                yield Target(holder, root, behind)
            else:
                yield Target(holder, root, _end(holder))
            return
        holder = holder.parent


def _behind_branches(scope: Scope, name: str, line: int) -> int:
    """The line, or that behind the `if` around it of which another branch binds the name, too."""
    for statement in scope.statements:
        if isinstance(statement, ast.If) and statement.lineno < line <= (statement.end_lineno or 0):
            binding = [b for b in (statement.body, statement.orelse) if any(name in names_bound(s) for s in b)]
            if len(binding) == 2:
                return (statement.end_lineno or line) + 1
    return line


def _argument_origins(scopes: Scopes, scope: Scope, parameter: str, depth: int) -> Iterator[Target]:
    for caller, statement, call in scopes.calls_of(scope):
        argument = argument_of(scope, call, parameter)
        if argument is not None:
            yield from _origins(scopes, caller, argument, statement.lineno, depth + 1)


def _attribute_origins(scopes: Scopes, scope: Scope, attribute: str, depth: int) -> Iterator[Target]:
    for method in (s for s in scopes.all if s.owner is scope.owner and attribute in s.bound):
        for statement in method.statements:
            if attribute not in {place(t) for t in targets_of(statement)} or attribute not in names_bound(statement):
                continue
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Name) and value.id in method.parameters:
                yield from _argument_origins(scopes, method, value.id, depth + 1)
            elif value is not None:
                yield Target(method, attribute, _end(method))
            return


def _instances(scopes: Scopes, owner: ast.ClassDef) -> Iterator[Target]:
    """Where a module that makes its own optimizer (Lightning) is constructed."""
    for scope, statement, call in scopes.calls:
        if isinstance(call.func, ast.Name) and call.func.id == owner.name:
            yield _of_call(scope, statement, call)


def _constructed(scopes: Scopes) -> Iterator[Target]:
    """Calls of model classes and model libraries outside of model classes."""
    for scope, statement, call in scopes.calls:
        if _makes_model(scopes, call) and not isinstance(statement, ast.Return) and not makes_parts(scopes, scope):
            yield _of_call(scope, statement, call)


def makes_parts(scopes: Scopes, scope: Scope, depth: int = 0) -> bool:
    """Whether a scope makes parts of models: a method of a model class, or a function that only such ones call."""
    if scope.function is None:
        return False
    if scope.owner is not None and scopes.is_module_class(scope.owner.name):
        return True
    callers = {caller for caller, _, _ in scopes.calls_of(scope)}
    if scope.owner is not None or not callers or depth > _MAX_DEPTH:
        return False
    return all(makes_parts(scopes, caller, depth + 1) for caller in callers)


def _makes_model(scopes: Scopes, call: ast.Call) -> bool:
    name = scopes.qualified(call.func)
    if scopes.is_module_class(name):
        return True
    if name.rpartition(".")[2] in _LISTS:
        return False
    if name.startswith("torch.nn.") and re.search(r"Loss|Parallel|Parameter|Entropy|Similarity|Distance", name):
        return False
    return bool(_MODEL_LIBRARIES.match(name)) and not _NOT_A_MODEL.search(name)


def _of_script(scopes: Scopes, script: Script) -> Iterator[Target]:
    """The models that the source pass found, by the place of their constructing call."""
    at: dict[tuple[int, int], tuple[Scope, ast.stmt, ast.Call]] = {}
    for found in scopes.calls:
        call = found[2]
        at.setdefault((call.lineno, scopes.file.column(call.lineno, call.col_offset)), found)
    for model in script.models:
        located = model.location
        found_call = at.get((located.line, located.column)) if located.path == scopes.file.path else None
        if found_call is None:
            continue
        scope, statement, call = found_call
        if makes_parts(scopes, scope):
            continue
        target = _of_call(scope, statement, call)
        yield Target(target.scope, target.expression, target.stop, call, _short(model.classes) or model.name, located)


def _short(classes: tuple[str, ...]) -> str:
    last = classes[0].rpartition(".")[2] if len(classes) == 1 else ""
    return last if last[:1].isupper() and last != "Sequential" else ""


def _of_call(scope: Scope, statement: ast.stmt, call: ast.Call) -> Target:
    """A construction as a target: the variable it is assigned to, else the call itself."""
    for target in targets_of(statement):
        root = place(target)
        if root and not isinstance(target, ast.Subscript) and root in names_bound(statement):
            return Target(scope, root, _end(scope), call)
    return Target(scope, ast.unparse(call), statement.lineno, call)


def _with_call(target: Target) -> Target:
    """Fill in the constructing call: that of the variable's first assignment, out of its wrappers."""
    for statement in target.scope.statements:
        value = getattr(statement, "value", None)
        if value is None or target.expression not in {place(t) for t in targets_of(statement)} & names_bound(statement):
            continue
        call = unwrapped(value)
        if isinstance(call, ast.Call):
            return Target(target.scope, target.expression, target.stop, call, target.name, target.location)
    return target


def unwrapped(value: ast.expr) -> ast.expr:
    """The construction inside `DataParallel(Net().to(device))`."""
    while isinstance(value, ast.Call):
        if _is_move(value) and isinstance(value.func, ast.Attribute):
            value = value.func.value
        elif value.args and _last(value.func) in _WRAPPERS:
            value = value.args[0]
        else:
            return value
    return value


def _is_move(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr in _MOVES


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _constructs(scope: Scope, name: str) -> bool:
    """Whether a parameter is given a new model inside the function, not merely wrapped or moved."""
    for statement in scope.statements:
        value = getattr(statement, "value", None)
        if value is not None and name in names_bound(statement) and targets_of(statement):
            inner = unwrapped(value)
            if isinstance(inner, ast.Call) and not any(isinstance(n, ast.Name) and n.id == name for n in walk(inner)):
                return True
    return False


def _end(scope: Scope) -> int:
    return max((s.end_lineno or s.lineno for s in scope.body), default=0) + 1


def argument_of(scope: Scope, call: ast.Call, parameter: str) -> ast.expr | None:
    """The expression that a call passes for a parameter, or None."""
    for keyword in call.keywords:
        if keyword.arg == parameter:
            return keyword.value
    names = [n for n in scope.parameters if not (scope.owner is not None and n in ("self", "cls"))]
    arguments = list(call.args)
    if arguments and isinstance(arguments[0], ast.Name) and arguments[0].id == scope.name:
        packed = next((k.value for k in call.keywords if k.arg == "args"), None)
        if isinstance(packed, (ast.Tuple, ast.List)):
            arguments = list(packed.elts)
            names = names[1:] if _last(call.func) == "spawn" else names
        else:
            arguments = arguments[1:]
    if any(isinstance(a, ast.Starred) for a in arguments) or parameter not in names:
        return None
    index = names.index(parameter)
    return arguments[index] if index < len(arguments) else None
