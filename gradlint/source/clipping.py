"""Calls that bound the gradient, whatever form they take."""

from __future__ import annotations

import ast
import re

from gradlint.source.evaluate import Evaluator
from gradlint.source.index import CallSite, Scope, dotted
from gradlint.source.resolve import resolve
from gradlint.source.things import Frame, FunctionThing
from gradlint.source.value import UNKNOWN, Resolution
from gradlint.source.walking import walk

CLIP_NAME = re.compile(r"clip.*grad|grad.*clip|clip_master|clip_(global_)?norm|agc|unitwise", re.IGNORECASE)
"""Names of functions that clip, in every library seen: clip_grad_norm_, clip_gradients, dispatch_clip_grad, …"""

_NOT_CLIPPING = re.compile(r"get_|set_|log_|add_argument|is_|should_|parse|print|zero_grad", re.IGNORECASE)

_BY_HAND = frozenset({"clamp_", "clamp", "clip", "clip_", "mul_", "div_", "copy_", "renorm_", "renorm"})

_CLAMPS = frozenset({"clamp", "clip", "clamp_", "clip_", "hardtanh", "hardtanh_"})
"""Functions that clamp their first argument."""

_BOUND_NAMES = (
    "max_norm",
    "clip_value",
    "max_grad_norm",
    "clip_grad",
    "clip",
    "grad_clip",
    "max_val",
    "value",
    "clip_val",
)


def clip_kind(evaluator: Evaluator, site: CallSite, frame: Frame | None = None) -> str | None:
    """How a call bounds the gradient (`Clipping.how`), or None if it does not."""
    name = site.name or _looked_up(site.node.func)
    if CLIP_NAME.search(name) and not _NOT_CLIPPING.match(name):
        functions = [t for t in evaluator.ask(site.node.func, site.scope, frame) if isinstance(t, FunctionThing)]
        if functions:
            return "helper" if any(bounds(f.scope) for f in functions) else None
        lowered = name.lower()
        return "clip_grad_value_" if "value" in lowered else "clip_grad_norm_"
    if name in _BY_HAND and isinstance(site.node.func, ast.Attribute):
        key = dotted(site.node.func.value) or ast.unparse(site.node.func.value)
        if re.search(r"\.grad(\.data)?$|\.grad\.", key):
            return "by hand"
    if name in _CLAMPS and any(re.search(r"\.grad\b", ast.unparse(a)) for a in site.node.args[:1]):
        return "by hand"
    if name == "register_hook" and site.node.args:
        return "hook" if _hook_bounds(evaluator, site, frame) else None
    return None


def _looked_up(callee: ast.expr) -> str:
    """The name that a callee is looked up by: `getattr(utils, f"clip_grad_{mode}_")`, as far as it is written."""
    match callee:
        case ast.Call(func=ast.Name(id="getattr"), args=[_, named, *_]):
            parts = [n.value for n in walk(named) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            return "".join(parts)
    return ""


def _hook_bounds(evaluator: Evaluator, site: CallSite, frame: Frame | None) -> bool:
    """Whether a gradient hook clamps or scales what it is given."""
    for thing in evaluator.ask(site.node.args[0], site.scope, frame):
        if isinstance(thing, FunctionThing) and thing.scope.words & {
            "clamp",
            "clip",
            "clamp_",
            "norm",
            "renorm",
            "clip_",
        }:
            return True
    return False


def bounds(scope: Scope, depth: int = 0) -> bool:
    """Whether a function of the project bounds gradients: it clips, clamps or scales `.grad`."""
    if any(CLIP_NAME.search(w) for w in scope.words if w != scope.name):
        return True
    if "grad" in scope.words and scope.words & (_BY_HAND | _CLAMPS):
        return True
    if any(k.endswith((".grad", ".grad.data")) for k in scope.stores):
        return True
    return depth < 1 and any(bounds(c, depth + 1) for c in scope.children)


def bound_of(evaluator: Evaluator, site: CallSite, frame: Frame | None = None) -> Resolution:
    """max_norm or clip_value of a clipping call."""
    for keyword in site.node.keywords:
        if keyword.arg in _BOUND_NAMES:
            return resolve(evaluator, keyword.value, site.scope, frame)
    by_hand = site.name in _BY_HAND
    position = len(site.node.args) - 1 if by_hand else 1
    if 0 <= position < len(site.node.args):
        return resolve(evaluator, site.node.args[position], site.scope, frame)
    return UNKNOWN


def is_off(bound: Resolution) -> bool:
    """Whether the only value of a bound switches clipping off: None, False or infinity."""
    value = bound.only
    if value is None:
        return False
    return value.value is None or value.value is False or value.value == float("inf")


def optimizer_clips(arguments: dict[str, Resolution], algorithms: tuple[str, ...], qualified: str | None) -> str | None:
    """The argument (or own default) by which an optimizer bounds the gradient itself, or None."""
    for name in (
        "max_grad_norm",
        "clip_threshold",
        "grad_clip_norm",
        "gradient_clipping",
        "percentile_clipping",
        "clip_grad",
    ):
        resolution = arguments.get(name)
        if resolution is not None:
            return None if is_off(resolution) or (resolution.only and resolution.only.value == 0) else name
    if set(algorithms) & {"FusedLAMB", "NVLamb", "Adafactor"} or (qualified or "").endswith(("BertAdam", "OpenAIAdam")):
        return "its own default"
    return None
