"""Joint draws ("particles") along a residual stream that passes through its own activations.

In x′ = φ(x + F(x)) the sum is no Gaussian: part of it has been rectified before, so that successive masks are alike.
A thousand draws are carried along, each of three tokens: one, another position of its sample, and another sample.
They are only made where an activation reads such a sum; what leaves a weight matrix is Gaussian again.
"""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from operator import mul, sub
from statistics import NormalDist

from gradlint.graph.signal.channel_draws import channel_base, channel_share, normalised
from gradlint.graph.signal.elementwise import Elementwise, elementwise
from gradlint.graph.signal.latin import DRAWS, fitted, gaussian, normal
from gradlint.graph.signal.moments import NEVER, Draws, Gradient, Signal, Weights
from gradlint.graph.signal.transfer import Site

LONGEST_CHAIN = 150
"""Sums in a row that are followed back; the sum of more terms than that is Gaussian."""
_RANGE = math.log(1e-6), math.log(1e6)
"""ln of the root mean square within which a function that does not scale is evaluated draw by draw."""
_HANDED_ON = frozenset({"add", "activation", "scale", "reshape", "normalization", "conv"})
"""Kinds whose output elements are functions of the same elements of their operands: norms and convolutions are where
they act on each channel by itself, and keep no weights elsewhere."""

Rows = tuple[list[float], list[float], list[float]]


@dataclass(frozen=True, slots=True)
class Response:
    """What an activation does to draws: its values and slopes on them, and E φ², E φ, E φ⁴ and E φ² − E φφ′ for two
    positions and for two samples, in units of exp(`log_unit`)."""

    values: Rows
    slopes: Rows
    log_unit: float
    square: float
    mean: float
    fourth: float
    ds: float
    dc: float


_NEAR = 0.1
"""Distances this near to one another are estimated together: draws tell them apart to a few per cent only."""


def cloud(site: Site | None, depth: int = 0) -> Draws | None:
    """Draws of a node's output, None where it is Gaussian."""
    if site is None or depth > LONGEST_CHAIN or site.output.log_q == NEVER:
        return None
    if "cloud" not in site.memory:
        site.memory["cloud"] = _made(site, depth)
    found: Draws | None = site.memory["cloud"]
    return found


def draws(site: Site, depth: int = 0) -> Draws:
    """Draws of a node's output, from its moments where it is Gaussian."""
    found = cloud(site, depth)
    if found is not None:
        return found
    if "draws" not in site.memory:
        site.memory["draws"] = gaussian(site.output, site.node.id)
    made: Draws = site.memory["draws"]
    return made


def respond(site: Site, f: Elementwise, x: Signal) -> Response | None:
    """The activation `f` at `site` on the draws of its operand, None where they are Gaussian or out of range.

    The correlations of the argument are known exactly: what the draws miss of them is made up by Price's theorem
    (1958), ∂E φφ′/∂E xx′ = E φ′(x)φ′(x′).
    """
    source = site.producers[0] if site.producers else None
    found = None if x.parts or _mixes_taps(source) else cloud(source)
    if found is None or not _evaluable(f, found.log_unit):
        return None
    values, slopes, unit = _evaluated(f, found)
    squares = [list(map(mul, row, row)) for row in values]
    exact = math.exp(min(x.log_q - found.log_unit, 60.0))
    argument = 1.0 if f.halves is not None else math.exp(found.log_unit)

    def gap(nth: int, distance: float) -> float:
        before, after = (list(map(sub, rows[0], rows[nth])) for rows in (found.rows, values))
        slope = sum(map(mul, slopes[0], slopes[nth])) / DRAWS
        missed = exact * distance - sum(map(mul, before, before)) / (2 * DRAWS)
        corrected: float = sum(map(mul, after, after)) / (2 * DRAWS) + slope * argument * missed
        return max(corrected, 0.0)

    near, far = gap(1, x.ds) if x.positions > 1 else 0.0, gap(2, x.dc)
    if x.positions > 1 and abs(x.dc - x.ds) < _NEAR:
        # Two estimates of one function: their mean, and the difference by the slope.
        slope = sum(map(mul, slopes[0], slopes[2])) / DRAWS
        middle, step = 0.5 * (near + far), 0.5 * slope * argument * exact * (x.dc - x.ds)
        near, far = max(middle - step, 0.0), max(middle + step, 0.0)
    seen = Response(
        values,
        slopes,
        unit,
        sum(map(sum, squares)) / (3 * DRAWS),
        sum(map(sum, values)) / (3 * DRAWS),
        sum(map(mul, squares[0], squares[0])) / DRAWS,
        near,
        far,
    )
    site.memory["response"] = seen
    return seen


def _mixes_taps(source: Site | None) -> bool:
    """Whether an argument is the normalised sum over the taps of one convolution, unlike anything that is added to it:
    as good as Gaussian by itself."""
    return source is not None and source.node.kind == "normalization" and channel_share(source) < 1.0


def passed(site: Site, f: Elementwise, x: Signal, gradient: Gradient) -> Gradient | None:
    """The gradient behind φ, weighted draw by draw: what later masks let through is alike to what this one does.

    G = E[w φ′²]·G′ with w the share of E g² that each draw carries, and the same for pairs of tokens. None where
    neither the argument nor the gradient is followed on draws.
    """
    source = site.producers[0] if site.producers else None
    seen: Response | None = site.memory.get("response")
    given = gradient.weights
    if source is None or x.parts or (seen is None and given is None):
        return None
    found = draws(source)
    if not _evaluable(f, found.log_unit):
        return None
    one, two, three = seen.slopes if seen else _evaluated(f, found)[1]
    square = list(map(mul, one, one))
    across, between = list(map(mul, one, two)), list(map(mul, one, three))
    if given is not None:
        square = list(map(mul, square, given.square))
        across = list(map(mul, across, given.across))
        between = list(map(mul, between, given.between))
    scale, s, c = (given.scale,) * 3 if given else (1.0, gradient.s, gradient.c)
    mean = scale * sum(square) / DRAWS
    if mean <= 0.0:
        return Gradient(NEVER)
    if given is None:
        across, between = [s * w for w in across], [c * w for w in between]
        s = c = 1.0
    factor = scale / mean
    far = factor * sum(between) / DRAWS
    middle = sum(found.token) / DRAWS
    spread = max(sum(map(mul, found.token, found.token)) / DRAWS - middle * middle, 1e-30)
    pull = (sum(map(mul, found.token, one)) / DRAWS - middle * sum(one) / DRAWS) ** 2 / spread
    pull *= DRAWS / max(sum(map(mul, one, one)), 1e-30)
    # One position in two samples is taken to lose as much as two positions do.
    e = gradient.e * far / gradient.c if gradient.e is not None and gradient.c else gradient.e
    return Gradient(
        gradient.log_g + math.log(mean),
        factor * sum(across) / DRAWS,
        far,
        gradient.v,
        last=gradient.last,
        pull_s=gradient.pull_s or gradient.s * pull,
        pull_c=gradient.pull_c or gradient.c * pull,
        e=e,
        weights=Weights(factor, square, across, between),
        lead=gradient.lead,
    )


def handed_on(site: Site, operand: Site | None, gradient: Gradient) -> Gradient:
    """The gradient of an operand, without its weights where no draws of that operand are followed."""
    if gradient.weights is None:
        return gradient
    if operand is None or site.node.kind not in _HANDED_ON:
        return gradient.unweighted
    followed = operand.memory.get("cloud") is not None or "channelwise" in operand.memory
    return gradient if followed else gradient.unweighted


# ---- making draws ----------------------------------------------------------------------------------------------


def _made(site: Site, depth: int) -> Draws | None:
    source = site.producers[0] if site.producers else None
    match site.node.kind:
        case "add" if not site.output.parts and len(site.producers) == 2:
            return _sum(site, depth)
        case "cat":
            return _side_by_side(site, depth)
        case "activation" if len(site.producers) == 1:
            seen: Response | None = site.memory.get("response")
            if seen is not None:
                return Draws(*seen.values, seen.log_unit, source is not None and draws(source).uneven)
            f = elementwise(site.node.op, site.node.attributes)
            if source is None or f is None or source.output.parts:
                return None
            found = draws(source, depth + 1)
            if not _evaluable(f, found.log_unit):
                return None
            values, _, unit = _evaluated(f, found)
            return Draws(*values, unit, found.uneven)
        case "normalization" if site.node.op == "batch_norm":
            base = channel_base(site)
            inner = cloud(base, depth + 1) if base is not None else None
            return None if inner is None else normalised(site, inner)
        case "scale" | "reshape" if source is not None and _same_elements(site, source):
            factor = site.node.attributes.get("factor", 1.0)
            inner = cloud(source, depth + 1)
            if site.node.attributes.get("offset") or inner is None or not isinstance(factor, (int, float)):
                return None
            return _stretched(inner, float(factor)) if factor else None
    return None


def _stretched(inner: Draws, factor: float) -> Draws:
    unit = inner.log_unit + 2.0 * math.log(abs(factor))
    if factor > 0.0:
        return inner._replace(log_unit=unit)
    token, other, stranger = ([-x for x in row] for row in inner.rows)
    return Draws(token, other, stranger, unit, inner.uneven)


def _same_elements(site: Site, source: Site) -> bool:
    """Whether a node hands the elements of its operand on, each in its place or moved as a whole."""
    x, y = source.output, site.output
    same = (x.batch, x.positions, x.features) == (y.batch, y.positions, y.features)
    return same and (site.node.kind == "scale" or site.node.op not in ("masked_fill", "where", "pad", "detach"))


def _sum(site: Site, depth: int) -> Draws | None:
    """The sum of two draws."""
    left, right = site.producers[0], site.producers[1]
    if left is None or right is None or left is right:
        return None
    if cloud(left, depth + 1) is None and cloud(right, depth + 1) is None:
        return None
    sign = -1.0 if site.node.op == "sub" else 1.0
    alpha = site.node.attributes.get("alpha")
    one, two = draws(left, depth + 1), draws(right, depth + 1)
    unit = site.output.log_q
    a, b = (math.exp(0.5 * min(d.log_unit - unit, 60.0)) for d in (one, two))
    b *= sign * (float(alpha) if isinstance(alpha, (int, float)) else 1.0)
    rows = [[a * x + b * y for x, y in zip(u, v, strict=True)] for u, v in zip(one.rows, two.rows, strict=True)]
    return fitted(rows, site.output, one.uneven or two.uneven)


def _side_by_side(site: Site, depth: int) -> Draws | None:
    """A concatenation along the features: every draw is of one operand, as many of each as it has features."""
    operands = [p for p in site.producers if p is not None]
    if not site.memory.get("counts") or len(operands) < len(site.producers) or len(operands) > DRAWS // 2:
        return None
    if all(cloud(p, depth + 1) is None for p in operands):
        return None
    made, unit = [draws(p, depth + 1) for p in operands], site.output.log_q
    scales = [math.exp(0.5 * min(d.log_unit - unit, 60.0)) for d in made]
    width = sum(p.output.features for p in operands)
    ends = list(accumulate(p.output.features / width for p in operands))
    # An order of its own says whose turn a draw is.
    turns = [min(bisect(ends, NormalDist().cdf(u)), len(made) - 1) for u in normal(3 * site.node.id)]
    rows = [[scales[j] * made[j].rows[nth][i] for i, j in enumerate(turns)] for nth in range(3)]
    return fitted(rows, site.output, True)


def _evaluable(f: Elementwise, log_unit: float) -> bool:
    return f.halves is not None or _RANGE[0] < 0.5 * log_unit < _RANGE[1]


def _evaluated(f: Elementwise, found: Draws) -> tuple[Rows, Rows, float]:
    """(φ, φ′, ln of the unit of φ) on each draw."""
    if f.halves is None:
        scale, phi, slope = math.exp(0.5 * found.log_unit), f.phi, f.slope
        arguments = [[scale * x for x in row] for row in found.rows]
        one, two, three = (list(map(phi, row)) for row in arguments)
        d_one, d_two, d_three = (list(map(slope, row)) for row in arguments)
        return (one, two, three), (d_one, d_two, d_three), 0.0
    left, right = f.halves
    if left == 0.0 and right == 1.0:
        one, two, three = ([x if x > 0.0 else 0.0 for x in row] for row in found.rows)
    else:
        one, two, three = ([right * x if x > 0.0 else left * x for x in row] for row in found.rows)
    d_one, d_two, d_three = ([right if x > 0.0 else left for x in row] for row in found.rows)
    return (one, two, three), (d_one, d_two, d_three), found.log_unit
