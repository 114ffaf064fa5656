"""Operations that move or merge positions: pooling, reductions, reshapes and upsampling."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from gradlint.graph.signal.elementwise import Elementwise, elementwise
from gradlint.graph.signal.linear import sizes
from gradlint.graph.signal.merge import IDENTITY
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log, mapped
from gradlint.graph.signal.quadrature import cdf, even_grid, pdf
from gradlint.graph.signal.transfer import Site, Transfer, Unclaimed, extent, inner_sizes, is_sized

_SHAPE_ONLY = frozenset(
    {"view", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "flip", "roll"}
    | {"rearrange", "reshape", "t", "movedim", "swapaxes", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"}
    | {"clone", "to", "type", "type_as", "float", "double", "half", "bfloat16", "cuda", "cpu", "requires_grad", "alias"}
    | {"identity", "as_tensor", "nan_to_num", "data", "T", "mT", "H", "real", "atleast_1d", "atleast_2d", "rot90"}
    | {"pack_padded_sequence", "pad_packed_sequence", "broadcast_tensors"}
)
_MASKING = frozenset({"masked_fill", "where", "triu", "tril"})
"""Part of the elements are replaced: the share is not known, and taken to be small."""
_MASK_DOUBT = 0.15
_SAMPLED = frozenset({"grid_sample", "roi_align", "sort", "as_strided", "diagonal", "take_along_dim", "topk"})
_SAMPLE_DOUBT = 0.3
_PICKS = frozenset(
    {"chunk", "slice", "select", "gather", "split", "getitem", "narrow", "index_select", "index", "unbind"}
    | {"tensor_split", "masked_select"}
)


def pool(site: Site) -> Signal:
    """Average over k: t = 1/k + (1−1/k)s; q′ = q·t, 1 − r′ = ((1−r) − (1−1/k)(1−s))/t. Maximum: see `_maximum`."""
    x = replace(site.inputs[0], parts=())
    op = site.node.op
    k, p_out = _window(site, x)
    if "max" in op:
        return _maximum(site, site.inputs[0], k, p_out)
    if "avg" not in op:
        raise Unclaimed(op)
    return replace(average(x, k), positions=p_out)


def average(x: Signal, k: float) -> Signal:
    """The mean of k positions."""
    kept = (1.0 - 1.0 / k) * x.ds
    t = max(1.0 - kept, 1e-30)
    out = mapped(x, lambda d: max((d - kept) / t, 0.0), log_q=x.log_q + math.log(t))
    # Over all positions the pairs of one sample are all common; two samples keep the mean over all pairs.
    return replace(out, m=max(-1.0, min(1.0, x.m / math.sqrt(t))), de=None if x.positions <= k else out.de)


def pool_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """Average: G = (G′/k²)·(k P_out/P_in), Gs = h + (1−h)Gs with h = (k−1)/(P_in−1). Maximum: one winner gets all."""
    x = site.inputs[0]
    k, p_out = _window(site, x)
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if gradient.zero:
        return [gradient, *rest]
    if "max" in site.node.op:
        f, z = _before(site)
        share = p_out / x.positions
        winners = _slope_of_winner(f, z, k)
        slopes = _winner(f, z, k)[2]
        # Winners are the large z: the mean of z·φ′(z) over them pulls the layer's own weight (`Gradient.pull_c`).
        pull = share * _pull_of_winner(f, z, k) ** 2 / max(slopes, 1e-30)
        same = 1.0 / k + (1.0 - 1.0 / k) * max(z.c, 0.0) ** 2
        won = replace(
            gradient,
            log_g=gradient.log_g + math.log(share * winners),
            s=gradient.s / k,
            c=gradient.c * same,
            parts=(),
            pull_s=gradient.s * pull,
            pull_c=gradient.c * pull,
        )
        return [won, *rest]
    return [spread(gradient, x, k, p_out), *rest]


def spread(gradient: Gradient, x: Signal, k: float, p_out: float) -> Gradient:
    """The gradient of positions that were averaged k at a time."""
    h = min((k - 1.0) / (x.positions - 1.0), 1.0) if x.positions > 1 else 0.0
    times = k * p_out / x.positions  # windows that hold one position
    overlap = 1.0 + max(times - 1.0, 0.0) * gradient.s
    log_g = gradient.log_g + log(times / (k * k) * overlap)
    return replace(gradient, log_g=log_g, s=h + (1.0 - h) * gradient.s, parts=(), last=False)


def _window(site: Site, x: Signal) -> tuple[float, float]:
    """(positions under one window, positions out)."""
    p_out = extent(site, x)[1] if is_sized(site.node) else None
    if "adaptive" in site.node.op or site.attribute("kernel_size") is None:
        if p_out is None:
            size = site.attribute("output_size", 1)
            p_out = math.prod(sizes(size, 2)) if isinstance(size, (list, tuple)) else float(size) ** 2
        return max(x.positions / p_out, 1.0), p_out
    dims = int(site.node.op[-2]) if site.node.op[-2:-1].isdigit() else _rank(site)
    kernel = sizes(site.attribute("kernel_size"), dims)
    stride = sizes(site.attribute("stride") or site.attribute("kernel_size"), dims)
    if p_out is None:
        p_out = max(x.positions / math.prod(stride), 1.0)
    return min(math.prod(kernel), max(x.positions, 1.0)), p_out


def _rank(site: Site) -> int:
    shape = site.node.shape
    return max(len(shape) - 2, 1) if shape is not None else 2


def _before(site: Site) -> tuple[Elementwise, Signal]:
    """The activation in front of a max pool and its argument: the maximum of φ(z) is φ of the maximum."""
    source = site.producers[0] if site.producers else None
    if source is not None and source.node.kind == "activation" and not source.inputs[0].parts:
        f = elementwise(source.node.op, source.node.attributes)
        if f is not None:
            return f, source.inputs[0]
    return IDENTITY, replace(site.inputs[0], parts=())


def _maximum(site: Site, x: Signal, k: float, p_out: float) -> Signal:
    """q′ = E φ(M)² with M = μ + σ(√ρ·u + √(1−ρ)·max of k independent ε), ρ between neighbours."""
    f, z = _before(site)
    if z.log_q == NEVER:
        return replace(x, positions=p_out)
    mean, square, _, unit = _winner(f, z, k)
    if square <= 0.0:
        return replace(x, log_q=NEVER, positions=p_out)
    m = max(-1.0, min(1.0, mean / math.sqrt(square)))
    loose = max(1.0 - m * m, 0.0) / max(1.0 - z.m * z.m, 1e-12)
    return mapped(
        replace(z, positions=p_out), lambda d: min(loose * d, 2.0), log_q=math.log(square) + unit, m=m, v=z.v, f=0.0
    )


def _winner(f: Elementwise, z: Signal, k: float) -> tuple[float, float, float, float]:
    spread = max(1.0 - z.m * z.m, 1e-12)
    unit = z.log_q if f.halves else 0.0
    scale = math.exp(0.5 * min(z.log_q - unit, 600.0))
    rho = max(0.0, min(1.0 - z.ds / spread, 1.0))
    mean, square, slopes = _maximum_moments(f, round(z.m, 3), round(rho, 3), round(math.log(scale), 3), round(k))
    return mean, square, slopes, unit


@lru_cache(maxsize=1024)
def _maximum_moments(f: Elementwise, m: float, rho: float, log_scale: float, k: int) -> tuple[float, float, float]:
    scale = math.exp(log_scale)
    sigma = scale * math.sqrt(max(1.0 - m * m, 1e-12))
    mean = square = slopes = 0.0
    step = 0.25
    top = [(step * (i + 0.5)) for i in range(-26, 30)]
    weights = [k * pdf(e) * cdf(e) ** (k - 1) for e in top]
    norm = math.fsum(weights)
    for u, w in even_grid(0.75) if rho > 0.0 else ((0.0, 1.0),):
        for e, p in zip(top, weights, strict=True):
            x = m * scale + sigma * (math.sqrt(rho) * u + math.sqrt(1.0 - rho) * e)
            y, d = f.phi(x), f.slope(x)
            weight = w * p / norm
            mean += weight * y
            square += weight * y * y
            slopes += weight * d * d
    return mean, square, slopes


def _pull_of_winner(f: Elementwise, z: Signal, k: float) -> float:
    """E Mφ′(M)/σ, M the largest of k."""
    if z.log_q == NEVER:
        return 0.0
    sigma = 1.0 if f.halves else math.exp(0.5 * min(z.log_q, 600.0))
    weights = [(e, k * pdf(e) * cdf(e) ** (k - 1)) for e in (0.25 * (i + 0.5) for i in range(-26, 30))]
    norm = math.fsum(w for _, w in weights)
    return math.fsum(w * e * f.slope(sigma * e) for e, w in weights) / norm


def _slope_of_winner(f: Elementwise, z: Signal, k: float) -> float:
    if z.log_q == NEVER:
        return 1.0
    winner = _winner(f, z, k)[2]
    single = _winner(f, z, 1.0)[2]
    return winner / single if single > 0.0 else 1.0


def reduce(site: Site) -> Signal:
    """A mean or sum over positions, features or samples, or the variance, std, norm or extreme of them."""
    x = replace(site.inputs[0], parts=())
    op = site.node.op
    k_b, k_p, k_n = _reduced(site, x)
    if op in ("var", "std", "norm"):
        return _spread_of(site, x, k_b, k_p, k_n)
    if op in ("amax", "amin"):
        return _extreme(site, x, k_p, k_n)
    if op not in ("mean", "sum"):
        raise Unclaimed(op)
    out = average(x, k_p) if k_p > 1.0 else x
    out = replace(out, positions=x.positions / k_p)
    if k_n > 1.0:
        common = min(out.m * out.m + out.f, 1.0)
        t = 1.0 / k_n + (1.0 - 1.0 / k_n) * common
        out = mapped(
            out, lambda d: min(d / (k_n * t), 2.0), log_q=out.log_q + math.log(t), m=out.m / math.sqrt(t), f=0.0,
            features=x.features / k_n,
        )  # fmt: skip
        out = replace(out, m=max(-1.0, min(1.0, out.m)))
    if k_b > 1.0:
        t = max(1.0 - (1.0 - 1.0 / k_b) * out.same_position, 1e-30)
        apart = out.ds + (out.dc - out.ds) * (1.0 - 1.0 / k_b)
        out = replace(
            out, log_q=out.log_q + math.log(t), m=max(-1.0, min(1.0, out.m / math.sqrt(t))),
            ds=min(max((apart - (1.0 - 1.0 / k_b) * out.same_position) / t, 0.0), 2.0), dc=0.0, de=None, batch=1.0,
        )  # fmt: skip
    if op == "sum":
        out = replace(out, log_q=out.log_q + 2.0 * math.log(k_b * k_p * k_n))
    return out


def _spread_of(site: Site, x: Signal, k_b: float, k_p: float, k_n: float) -> Signal:
    """Variance, std or 2-norm over k elements: near its mean, off by √(2/k) of it (√(1/2k) for a root)."""
    k = k_b * k_p * k_n
    if k <= 1.0:
        raise Unclaimed(f"{site.node.op} of a single element")
    common = 1.0
    if k_n > 1.0:
        common *= min(x.m * x.m + x.f, 1.0)
    elif k_b > 1.0:
        common *= max(x.c, 0.0)
    elif k_p > 1.0:
        common *= max(x.s, 0.0)
    kept = max(1.0 - common, 1e-12) if site.node.op != "norm" else k
    log_mean = (x.log_q + math.log(kept)) * (1.0 if site.node.op == "var" else 0.5)
    spread = (2.0 if site.node.op == "var" else 0.5) / k
    m = 1.0 / math.sqrt(1.0 + spread)
    site.doubt = min(spread, 0.3)
    return Signal(
        2.0 * log_mean + math.log1p(spread), m, spread / (1.0 + spread), spread / (1.0 + spread), None, 0.0, 0.0,
        x.batch / k_b, x.positions / k_p, x.features / k_n,
    )  # fmt: skip


def _extreme(site: Site, x: Signal, k_p: float, k_n: float) -> Signal:
    """The largest or smallest of k Gaussians, by order statistics."""
    k = min(k_p * k_n, 4096.0)
    if k <= 1.0:
        return x
    site.doubt = _SAMPLE_DOUBT
    out = _maximum(site, x, k, x.positions / k_p)
    m = -out.m if site.node.op == "amin" else out.m
    return replace(out, m=m, features=x.features / k_n)


def reduce_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """A mean over k spreads G/k² to each; a sum spreads G; an extreme gives it to the winner; of a variance and the
    like little flows back, ∂v/∂x = 2x/k."""
    x = site.inputs[0]
    op = site.node.op
    k_b, k_p, k_n = _reduced(site, x)
    k = k_b * k_p * k_n
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if op in ("var", "std", "norm"):
        y = site.output
        slope = math.log(4.0) + x.log_q - 2.0 * math.log(k) if op == "var" else -math.log(k)
        if op == "norm":
            slope = x.log_q - y.log_q
        return [Gradient(gradient.log_g + slope, gradient.s * x.s, gradient.c * x.c, gradient.v), *rest]
    if op in ("amax", "amin"):
        return [replace(gradient, log_g=gradient.log_g - math.log(k), s=gradient.s / k, parts=()), *rest]
    g = spread(gradient, x, k_p, x.positions / k_p) if k_p > 1.0 else gradient
    g = replace(g, log_g=g.log_g - 2.0 * math.log(k_n * k_b), f=1.0 if k_n > 1.0 else g.f)
    if k_b > 1.0:
        g = replace(g, c=1.0)
    if op == "sum":
        g = replace(g, log_g=g.log_g + 2.0 * math.log(k))
    return [g, *rest]


def _reduced(site: Site, x: Signal) -> tuple[float, float, float]:
    """How many samples, positions and features become one."""
    if site.node.shape is None:
        return (1.0, x.positions, 1.0) if x.positions > 1 else (1.0, 1.0, 1.0)
    source = site.graph.nodes[site.node.inputs[0]]
    dims = site.attribute("dim")
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    k_b = k_n = 1.0
    if source.shape:
        rank = len(source.shape)
        axes = {d % rank for d in dims if isinstance(d, int)} or set(range(rank))
        if source.feature_axis is not None and source.feature_axis % rank in axes:
            k_n = x.features
        if source.batch_axis is not None and source.batch_axis % rank in axes:
            k_b = x.batch
        if k_b > 1.0 and axes == set(range(rank)):
            return k_b, x.positions, x.features
    total = x.positions * x.features
    _, p, n = extent(site, x)
    whole = max(total / (p * n), 1.0)
    return k_b, max(whole / k_n, 1.0), k_n


def reshape(site: Site) -> Signal:
    """Axes move: when positions become features, pairs of positions become pairs of features, and back."""
    x, op = site.inputs[0], site.node.op
    if op in _MASKING or op in _SAMPLED:
        site.doubt = _MASK_DOUBT if op in _MASKING else _SAMPLE_DOUBT
        nth = site.memory["through"] = _carrier(site)
        x = replace(site.inputs[nth], parts=())
        n, p, features = extent(site, x)
        return x.at(n, p, features)
    if op == "detach" or op in _SHAPE_ONLY:
        return _moved(site, x)
    batch, p, n = extent(site, x)
    if op in _PICKS:
        same = n == x.features
        return replace(x, parts=x.parts if same else (), batch=batch, positions=p, features=n)
    if op in ("expand", "repeat", "tile", "repeat_interleave", "broadcast_to", "expand_as"):
        k = max(p / x.positions, 1.0)
        h = (k - 1.0) / (p - 1.0) if p > 1 else 0.0
        return replace(x, ds=(1.0 - h) * x.ds, batch=max(batch, x.batch), positions=p, features=n)
    if op == "pad":
        inside = min(x.positions * x.features / (p * n), 1.0)
        out = mapped(x, lambda d: d + (1.0 - inside) * (1.0 - d), log_q=x.log_q + math.log(inside))
        return replace(out, m=x.m * math.sqrt(inside), parts=(), positions=p, features=n)
    if op == "unfold":
        return replace(x, parts=(), positions=p, features=n)
    raise Unclaimed(op)


def _carrier(site: Site) -> int:
    """The operand whose values pass: the first that is not a mask."""
    for nth, producer in enumerate(site.producers):
        if producer is not None and not producer.guessed and producer.node.kind != "constant":
            return nth
    return 0


def reshape_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """The same moves back; a slice leaves zeros elsewhere, an expansion sums."""
    x, y, op = site.inputs[0], site.output, site.node.op
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if op == "detach":
        return [Gradient(NEVER), *rest]
    if "through" in site.memory:
        nth = site.memory["through"]
        carried = replace(gradient, parts=())
        return [carried if i == nth else Gradient(NEVER) for i in range(len(site.inputs))]
    if gradient.zero or op in _SHAPE_ONLY:
        return [_moved_back(gradient, x, y), *rest]
    if _is_last_state(site):
        # h_n of a recurrent layer: all of the gradient stands at the last step.
        share = min(y.positions * y.features / (x.positions * x.features), 1.0)
        g = replace(gradient, log_g=gradient.log_g + log(share), s=0.0, parts=(), last=True)
        return [replace(g, c=gradient.c / max(x.positions / y.positions, 1.0)), *rest]
    if op in _PICKS:
        share = min(y.positions * y.features / (x.positions * x.features), 1.0)
        g = replace(gradient, log_g=gradient.log_g + log(share), parts=())
        if y.positions < x.positions:
            s = gradient.s * (y.positions - 1.0) / (x.positions - 1.0)
            last = y.positions == 1.0 and _is_last(site.attribute("index"))
            g = replace(g, s=s, c=gradient.c * y.positions / x.positions, last=last)
        return [g, *rest]
    if op == "pad":
        return [replace(gradient, parts=()), *rest]
    if y.size > x.size:
        k = y.positions / x.positions
        if k > 1.0:
            bracket = max(1.0 + (k - 1.0) * gradient.s, 1e-6)
            gradient = replace(gradient, log_g=gradient.log_g + math.log(k * bracket), parts=())
    return [replace(gradient, parts=()), *rest]


def _is_last_state(site: Site) -> bool:
    producer = site.producers[0] if site.producers else None
    index = str(site.attribute("index", ""))
    return producer is not None and producer.node.kind == "recurrent" and index in ("1", "2")


def _moved(site: Site, x: Signal) -> Signal:
    batch, p, n = extent(site, x)
    if _flattens(site) and x.positions > 1.0:
        p, n = 1.0, _flattened(site, x)
    if p == x.positions and n == x.features:
        return replace(x, batch=batch)
    shared = min(x.m * x.m + x.f, 1.0)
    if p > x.positions and n < x.features:  # features become positions
        k = p / x.positions
        s = ((x.positions - 1.0) * x.s + (p - x.positions) * shared) / (p - 1.0)
        c = (x.c + (k - 1.0) * x.m * x.m) / k
        return replace(x, ds=1.0 - s, dc=1.0 - c, de=x.same_position, parts=(), positions=p, features=n)
    if p < x.positions and n > x.features:  # positions become features
        k = x.positions / p
        f = ((k - 1.0) * x.s + (n - k) * shared) / max(n - 1.0, 1.0) - x.m * x.m
        if p <= 1.0:
            return replace(x, ds=1.0, dc=x.same_position, de=None, f=f, parts=(), positions=p, features=n)
        s = ((x.positions - 1.0) * x.s - (x.positions - p) * x.m * x.m) / (p - 1.0)
        c = x.c if x.de is None else min(k * x.c - (k - 1.0) * x.m * x.m, 1.0 - x.de)
        s = max(min(s, 1.0), x.s)
        return replace(x, ds=1.0 - s, dc=1.0 - c, f=f, parts=(), positions=p, features=n)
    if n == x.positions and p == x.features:  # tokens and channels change places (a mixer)
        c = x.m * x.m + (1.0 - x.same_position - x.m * x.m) / p
        return replace(
            x, ds=1.0 - shared, f=x.s - x.m * x.m, dc=1.0 - c, de=x.same_position, parts=(), positions=p, features=n
        )
    return replace(x, parts=(), batch=batch, positions=p, features=n)


def _flattens(site: Site) -> bool:
    """Whether all positions of a sample become features, where sizes do not say so."""
    if is_sized(site.node) or site.node.op not in ("flatten", "view", "reshape"):
        return False
    sizes = inner_sizes(site.node)
    before = inner_sizes(site.graph.nodes[site.node.inputs[0]])
    return sizes is None or (len(sizes) == 1 and before is not None and len(before) > 1)


def _flattened(site: Site, x: Signal) -> float:
    """Features after flattening: what the layer that reads them expects, else all elements."""
    for user in site.graph.consumers[site.node.id]:
        expected = site.graph.nodes[user].attributes.get("in_features")
        if isinstance(expected, int) and expected > 0:
            return float(expected)
    return x.features * x.positions


def _moved_back(g: Gradient, x: Signal, y: Signal) -> Gradient:
    if x.positions == y.positions:
        return g if x.features == y.features else replace(g, parts=())
    if y.positions > x.positions:  # positions back into features
        k = y.positions / x.positions
        s = min((y.positions - 1.0) * g.s / (x.positions - 1.0), 1.0) if x.positions > 1 else 0.0
        return replace(g, s=s, c=min(g.c * k, 1.0), f=g.s if x.positions == 1 else g.f, parts=())
    s = (y.positions - 1.0) * g.s / (x.positions - 1.0)
    return replace(g, s=s + (g.f if y.features == x.positions else 0.0), c=g.c * y.positions / x.positions, parts=())


def upsample(site: Site) -> Signal:
    """k copies of each position: s′ = h + (1−h)s, h = (k−1)/(P_out−1); linear interpolation averages as well."""
    x = replace(site.inputs[0], parts=())
    p_out = _upsampled(site, x)
    k = max(p_out / x.positions, 1.0)
    h = (k - 1.0) / (p_out - 1.0) if p_out > 1 else 0.0
    w = _blend(site, k)
    t = w + (1.0 - w) * x.s
    out = mapped(x, lambda d: max((d - (1.0 - t)) / t, 0.0), log_q=x.log_q + log(t), m=x.m / math.sqrt(t))
    return replace(out, ds=(1.0 - h) * out.ds, positions=p_out)


def upsample_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """G = kG′(1 + (k−1)Gs): the copies' gradients are summed."""
    x = site.inputs[0]
    k = max(_upsampled(site, x) / x.positions, 1.0)
    bracket = max(1.0 + (k - 1.0) * gradient.s, 1e-6)
    w = _blend(site, k)
    log_g = gradient.log_g + math.log(k * bracket) + math.log(w + (1.0 - w) * max(gradient.s, 0.0))
    return [replace(gradient, log_g=log_g, parts=()), *[Gradient(NEVER)] * (len(site.inputs) - 1)]


def _upsampled(site: Site, x: Signal) -> float:
    if is_sized(site.node):
        return extent(site, x)[1]
    factor = site.attribute("scale_factor", 2.0)
    return x.positions * math.prod(sizes(factor, _rank(site)))


def _blend(site: Site, k: float) -> float:
    """Σ of squared interpolation weights, mean over positions: 2/3 − 1/(6k²) an axis of factor k."""
    mode = str(site.attribute("mode", "nearest"))
    dims = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}.get(mode, 0)
    if not dims or k <= 1.0:
        return 1.0
    axis = k ** (1.0 / dims)
    return float((2.0 / 3.0 - 1.0 / (6.0 * axis * axis)) ** dims)


POOL, REDUCE = Transfer(pool, pool_back), Transfer(reduce, reduce_back)
RESHAPE, UPSAMPLE = Transfer(reshape, reshape_back), Transfer(upsample, upsample_back)


def _is_last(index: object) -> bool:
    """Whether an index, a number or a subscript as written, picks the last position; unknown ones are taken to."""
    parts = [part.strip(" ()[]") for part in index.split(",")] if isinstance(index, str) else [index]
    return index is None or "-1" in parts or -1 in parts
