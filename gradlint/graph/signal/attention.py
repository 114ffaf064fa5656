"""Attention: scores, softmax and the weighted mean of values, written out or as one operation.

Source: Noci et al. 2022 (rank collapse, §3) and Dong et al. 2021 for what attention does to the correlation
of tokens; the softmax of Gaussian scores is summarised by the effective number of keys 1/Σp².
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gradlint.graph.signal.linear import coherence
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log, log_sum, total
from gradlint.graph.signal.quadrature import softmax_moments
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
    axis_of,
    bias_moments,
    extent,
    is_sized,
    weight_moments,
)


@dataclass(frozen=True)
class Rows:
    """Softmax rows over T keys: `peak` E Σp², `pair` E Σ p p′ of two rows, `visible` mean of 1/visible keys."""

    keys: float
    peak: float
    pair: float


def softmax_rows(keys: float, variance: float, row_correlation: float, causal: bool) -> Rows:
    """κ = T·EΣp² for scores of this variance; A = min(κ·mean(1/visible), 1), two rows share κ′/T."""
    t = max(keys, 1.0)
    kappa = softmax_moments(round(t), round(math.sqrt(variance), 3))[0]
    # Two rows agree in the part of the scores that they share.
    pair = softmax_moments(round(t), round(math.sqrt(variance * max(row_correlation, 0.0)), 3))[0]
    visible = (math.log(t) + 0.5772 + 0.5 / t) / t if causal else 1.0 / t
    return Rows(t, min(kappa * visible, 1.0), min(pair / t, 1.0) if not causal else min(pair * 2.0 / (t + 1.0), 1.0))


def head_correlation(x: Signal, tokens: float) -> float:
    """Correlation of two tokens within a head, where positions run over heads and tokens."""
    if tokens <= 1.0 or x.positions <= tokens:
        return max(min(x.s, 1.0), 0.0)
    whole = ((x.positions - 1.0) * x.s - (x.positions - tokens) * x.m * x.m) / (tokens - 1.0)
    return max(0.0, min(whole, 1.0))


@dataclass(frozen=True)
class Heads:
    """One attention core, both ways. `s_*`: correlation of tokens in queries, keys, values; the scores carry the
    factor √scale_squared."""

    rows: Rows
    q: Signal
    k: Signal
    v: Signal
    s_q: float
    s_k: float
    s_v: float
    width: float
    scale_squared: float

    @property
    def mixed(self) -> float:
        """e = s_V + (1 − s_V)A: what averaging leaves of the values' energy."""
        return self.s_v + (1.0 - self.s_v) * self.rows.peak

    def forward(self) -> Signal:
        """q′ = q_V·e; s′ = (s_V + (1 − s_V)A′)/e; two samples keep c_V."""
        v, e = self.v, max(self.mixed, 1e-30)
        s = (self.s_v + (1.0 - self.s_v) * self.rows.pair) / e
        if v.positions > self.rows.keys:
            s = ((self.rows.keys - 1.0) * s + (v.positions - self.rows.keys) * v.m * v.m) / (v.positions - 1.0)
        de = None if v.de is None else 1.0 - min(max(v.c, 0.0) / e, 1.0)
        return replace(
            self.v, log_q=v.log_q + math.log(e), m=max(-1.0, min(1.0, v.m / math.sqrt(e))), ds=1.0 - min(s, 1.0),
            dc=1.0 - min(v.c / e, 1.0), de=de, batch=self.q.batch, positions=self.q.positions, parts=(),
        )  # fmt: skip

    def backward(self, g: Gradient) -> tuple[Gradient, Gradient, Gradient]:
        """G_V = A·G + (T−1)A′·Gs·G; G_Q = G·A(1−A)·q_V(1−s_V)·q_K(1−s_K)·d·a²; G_K alike with q_Q."""
        t, a, pair = self.rows.keys, self.rows.peak, self.rows.pair
        gs = g.s if g.s <= 0 else min(g.s * max((self.q.positions - 1.0) / max(t - 1.0, 1.0), 1.0), 1.0)
        onto_v = max(a + (t - 1.0) * pair * gs, 1e-12)
        # Rows sum to one: Σ p p′ over two keys is (1 − A)/(T − 1) within a row and (1 − A′) over two rows.
        s_v = min(max(((1.0 - a) / max(t - 1.0, 1.0) + (1.0 - pair) * gs) / onto_v, 0.0), 1.0)
        shrink = (t - 1.0) / max(self.v.positions - 1.0, 1.0) if self.v.positions > t else 1.0
        g_v = Gradient(g.log_g + math.log(onto_v), s_v * shrink, max(-1.0, min(g.c / onto_v, 1.0)), g.v)
        core = g.log_g + log(a * (1.0 - a) * (1.0 - self.s_v) * self.width * self.scale_squared) + self.v.log_q
        g_q = Gradient(core + self.k.log_q + log(1.0 - self.s_k), 0.0, 0.0, g.v)
        kappa_ratio = min(pair / max(a, 1e-30), 1.0)
        bracket = max(1.0 + (t - 1.0) * gs * self.s_q * kappa_ratio, 1e-6)
        g_k = Gradient(core + self.q.log_q + math.log(bracket), 0.0, 0.0, g.v)
        return g_q, g_k, g_v


def heads(site: Site, q: Signal, k: Signal, v: Signal, width: float, tokens: float) -> Heads:
    """The core of an attention over `tokens` keys with heads of `width`."""
    scale = site.attribute("scale")
    squared = float(scale) ** 2 if isinstance(scale, (int, float)) and scale else 1.0 / width
    s_q, s_k, s_v = (head_correlation(x, tokens) for x in (q, k, v))
    variance = math.exp(min(q.log_q + k.log_q + log((1.0 - s_k) * width * squared), 20.0))
    rows = softmax_rows(tokens, variance, s_q, bool(site.attribute("causal", site.attribute("is_causal", False))))
    return Heads(rows, q, k, v, s_q, s_k, s_v, width, squared)


def _tokens(site: Site, k: Signal) -> float:
    source = site.graph.nodes[site.node.inputs[min(1, len(site.node.inputs) - 1)]]
    if source.shape is not None and len(source.shape) >= 3:
        length = source.shape[-2]
        if isinstance(length, int):
            return max(float(length), 1.0)
        heads = math.prod(n for n in source.shape[1:-2] if n is not None)
        return max(k.positions / max(heads, 1), 1.0)
    return max(k.positions, 1.0)


def attend(site: Site) -> Signal:
    """Scaled dot-product attention, or a whole multi-head attention with its projections."""
    if site.node.op == "scaled_dot_product_attention":
        q, k, v = (replace(x, parts=()) for x in site.inputs[:3])
        core = site.memory["core"] = heads(site, q, k, v, q.features, _tokens(site, k))
        return _dropped(site, core.forward())
    if site.node.op != "multi_head_attention":
        raise Unclaimed(site.node.op)
    inputs = [replace(x, parts=()) for x in (site.inputs + [site.inputs[-1]] * 3)[:3]]
    if len(site.inputs) < 3:
        inputs = [inputs[0], replace(site.inputs[-1], parts=()), replace(site.inputs[-1], parts=())]
    width = float(site.attribute("embed_dim", inputs[0].features))
    projected = [_project(site, x, _role(site, name), width) for x, name in zip(inputs, "qkv", strict=True)]
    q, k, v = projected
    head = width / float(site.attribute("num_heads", 1))
    # Within one head tokens are as correlated as in the whole: positions are the tokens themselves.
    core = site.memory["core"] = heads(site, q, k, v, head, max(inputs[1].positions, 1.0))
    mixed = site.memory["mixed"] = _dropped(site, core.forward())
    return _project(site, mixed, _role(site, "out"), width)


def attend_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """The gradients of queries, keys and values; of the tensors they were projected from."""
    core: Heads = site.memory["core"]
    rest = [Gradient(NEVER)] * max(len(site.inputs) - 3, 0)
    if gradient.zero:
        return [Gradient(NEVER)] * len(site.inputs)
    if site.node.op == "scaled_dot_product_attention":
        return [*core.backward(gradient), *rest]
    through = _projected_back(site, gradient, "out")
    onto = [_projected_back(site, g, n) for g, n in zip(core.backward(through), "qkv", strict=True)]
    count = len(site.inputs)
    if count >= 3:
        return [*onto, *rest]
    return [total(onto)] if count == 1 else [onto[0], total(onto[1:])]


def attend_weight(site: Site, gradient: Gradient) -> float:
    """ln of the squared norm of the gradient of all projections together."""
    if site.node.op != "multi_head_attention" or gradient.zero:
        return NEVER
    core: Heads = site.memory["core"]
    through = _projected_back(site, gradient, "out")
    inputs = (site.inputs + [site.inputs[-1]] * 2)[:3]
    pairs = [(site.memory["mixed"], gradient), *zip(inputs, core.backward(through), strict=True)]
    width = float(site.attribute("embed_dim", inputs[0].features))
    terms = [
        math.log(width * x.features * x.batch * x.positions)
        + x.log_q
        + g.log_g
        + math.log(coherence(x, g, x.positions))
        for x, g in pairs
    ]
    return log_sum(*terms)


def _dropped(site: Site, x: Signal) -> Signal:
    """Dropout on the weights of an average over many keys adds little: it is left out."""
    return x


def _role(site: Site, part: str) -> str:
    names = (f"{part}_proj", f"{part}_proj_weight", f"{part}_proj.weight", "in_proj", "in_proj_weight")
    for name in names[: 3 if part == "out" else 5]:
        if site.has(name):
            return name
    raise Unclaimed(f"{site.node.name}: no {part} projection")


def _project(site: Site, x: Signal, role: str, width: float) -> Signal:
    variance, mean = weight_moments(site, role, x.features)
    bias = "out_proj_bias" if role.startswith("out") else "in_proj_bias"
    b = bias_moments(site, bias if site.has(bias) else bias.replace("_proj_bias", "_proj.bias"))
    spread = x.log_q + log(x.features * (variance + mean * mean))
    log_q = log_sum(spread, log(b[0] + b[1] ** 2))
    share = math.exp(spread - log_q) if log_q != NEVER else 1.0
    de = None if x.de is None else share * x.de
    return replace(x, log_q=log_q, m=0.0, ds=share * x.ds, dc=share * x.dc, de=de, f=0.0, features=width)


def _projected_back(site: Site, g: Gradient, part: str) -> Gradient:
    width = float(site.attribute("embed_dim", site.inputs[0].features))
    variance, mean = weight_moments(site, _role(site, part), width)
    return replace(g, log_g=g.log_g + log(width * (variance + mean * mean)), parts=(), f=0.0)


def softmax(site: Site) -> Signal:
    """p = softmax(z) over T features: E p² = EΣp²/T, mean 1/T."""
    x = replace(site.inputs[0], parts=())
    if site.node.op == "log_softmax":
        # log p ≈ z − ln Σ e^z: the logits less a constant of the row.
        variance = math.exp(min(x.log_q + log(max(1.0 - x.m**2 - x.f, 0.0)), 600.0))
        level = math.log(x.features) + min(0.5 * variance, math.sqrt(2.0 * variance * math.log(max(x.features, 2.0))))
        q = variance + level * level
        return replace(x, log_q=log(q), m=-level / math.sqrt(q), ds=x.ds * variance / q, dc=x.dc * variance / q)
    if axis_of(site, "dim", site.graph.nodes[site.node.inputs[0]]) == "batch":
        raise Unclaimed("softmax over the batch")
    shared = min(max(x.m * x.m + x.f, 0.0), 1.0)
    variance = math.exp(min(x.log_q + log(1.0 - shared), 20.0))
    tokens = max(x.features, 1.0)
    s_rows = max(0.0, min(1.0 - x.ds, 1.0))
    rows = site.memory["rows"] = softmax_rows(tokens, variance, s_rows, bool(site.attribute("causal", False)))
    q = rows.peak / tokens
    m = 1.0 / (tokens * math.sqrt(q))
    across = softmax_rows(tokens, variance, max(0.0, x.c), False)
    pairs = (1.0 - rows.peak) / max((tokens - 1.0) * rows.peak, 1e-30) if tokens > 1 else m * m
    return replace(
        x,
        log_q=math.log(q),
        m=min(m, 1.0),
        ds=1.0 - min(rows.pair / rows.peak, 1.0),
        dc=1.0 - min(across.pair / rows.peak, 1.0),
        de=None,
        f=min(pairs, 1.0) - m * m,
    )


def softmax_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """g_z = p(g − p·g): G = E p²·G′(1 − f)(1 − Σp²); over the keys it sums to zero."""
    if site.node.op == "log_softmax":
        return [gradient]
    rows: Rows = site.memory["rows"]
    kept = max((1.0 - max(gradient.f, 0.0)) * (1.0 - rows.peak), 0.0)
    return [
        Gradient(
            gradient.log_g + log(rows.peak / rows.keys * kept),
            gradient.s * site.output.s,
            gradient.c * site.output.c,
            gradient.v,
            f=-1.0 / max(rows.keys - 1.0, 1.0),
        )
    ]


def _contraction(site: Site) -> tuple[bool, float]:
    """(whether the second operand is summed over its features, length of the sum)."""
    b = site.graph.nodes[site.node.inputs[1]]
    a = site.graph.nodes[site.node.inputs[0]]
    if site.node.op == "einsum":
        return _summed(site, str(site.attribute("equation", "")))
    if a.shape is None or b.shape is None or site.node.op not in ("matmul", "bmm", "mm"):
        raise Unclaimed(f"{site.node.op} of unknown shapes")
    first, second = site.inputs[:2]
    axis, width = b.feature_axis, b.shape[-1]
    last = axis is not None and axis % len(b.shape) == len(b.shape) - 1
    if not is_sized(b):
        # A source reader does not follow the feature axis through a transposition: its size tells.
        last = width is not None and float(width) == second.features
    length = a.shape[-1]
    if isinstance(length, int):
        return not last, float(length)
    return not last, first.features


def _summed(site: Site, equation: str) -> tuple[bool, float]:
    """The contraction of an einsum over one letter, features last in both operands ("bqd,bkd->bqk")."""
    left, _, out = equation.replace(" ", "").replace("...", "").partition("->")
    operands = left.split(",")
    shared = [c for c in operands[0] if len(operands) == 2 and c in operands[1] and c not in out]
    shape = site.graph.nodes[site.node.inputs[0]].shape
    if len(shared) != 1 or shape is None:
        raise Unclaimed(f"einsum {equation}")
    size = shape[operands[0].index(shared[0]) - len(operands[0])]
    length = float(size) if isinstance(size, int) else site.inputs[0].features
    return length == site.inputs[1].features and operands[1][-1] == shared[0], length


def matmul(site: Site) -> Signal:
    """Σ_l a_l b_l: q′ = L·q_a·q_b·(1 + (L−1)r_a·r_b), r the correlation along the axis that is summed."""
    a, b = (replace(x, parts=()) for x in site.inputs[:2])
    over_features, length = _contraction(site)
    r_a = min(a.m * a.m + a.f, 1.0)
    r_b = min(b.m * b.m + b.f, 1.0) if over_features else head_correlation(b, length)
    gain = max(1.0 + (length - 1.0) * r_a * r_b, 1e-9)
    _, positions, features = extent(site, a)
    if not is_sized(site.node):
        features = max(b.positions * a.features / length, 1.0) if over_features else b.features
        positions = a.positions
    q = a.log_q + b.log_q + math.log(length * gain)
    if over_features:
        tokens = features
        s, f = head_correlation(a, tokens), head_correlation(b, tokens)
        return Signal(q, 0.0, 1.0 - s, 1.0 - a.c * b.c, None, f, a.v + b.v, a.batch, positions, features)
    s = (a.s + (length - 1.0) * r_b * r_a) / gain
    if positions > length:  # heads among the positions
        s = ((length - 1.0) * s + (positions - length) * b.m * b.m) / (positions - 1.0)
    c = b.c * (a.c + (length - 1.0) * min(r_a * a.s, 1.0)) / gain
    m = b.m * math.sqrt(min(1.0 / gain, 1.0)) * math.sqrt(min((1.0 + (length - 1.0) * r_a), length))
    m = max(-1.0, min(m, 1.0))
    ds, dc = 1.0 - min(s, 1.0), 1.0 - min(c, 1.0)
    return Signal(q, m, ds, dc, None, 0.0, a.v + b.v, a.batch, positions, features)


def matmul_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """∂a = g·bᵀ, ∂b = aᵀ·g: sums over the other operand's free axis, with the correlations along it."""
    a, b = (replace(x, parts=()) for x in site.inputs[:2])
    over_features, length = _contraction(site)
    n, rows = site.output.features, site.node.shape[-2] if site.node.shape else 1
    t = float(rows) if isinstance(rows, int) else 1.0
    if over_features:
        along = head_correlation(b, n)
        to_a = max(1.0 + (n - 1.0) * gradient.f * along, 1e-9) if gradient.f else 1.0
        g_a = Gradient(gradient.log_g + b.log_q + math.log(n * to_a), gradient.s * along, 0.0, gradient.v)
        bracket = max(1.0 + (t - 1.0) * gradient.s * head_correlation(a, t), 1e-9)
        return [g_a, Gradient(gradient.log_g + a.log_q + math.log(t * bracket), 0.0, 0.0, gradient.v)]
    g_a = Gradient(gradient.log_g + b.log_q + math.log(n), 0.0, 0.0, gradient.v, f=head_correlation(b, length))
    gs = min(gradient.s * max((site.output.positions - 1.0) / max(t - 1.0, 1.0), 1.0), 1.0)
    bracket = max(1.0 + (t - 1.0) * gs * a.s, 1e-9)
    s_b = min(max((1.0 / length) * (1.0 + (t - 1.0) * gs) / (math.exp(a.log_q) * length * bracket), 0.0), 1.0)
    shrink = (length - 1.0) / max(b.positions - 1.0, 1.0) if b.positions > length else 1.0
    c_b = max(-1.0, min(gradient.c / max(math.exp(a.log_q) * t * bracket, 1e-12), 1.0))
    return [g_a, Gradient(gradient.log_g + a.log_q + math.log(t * bracket), s_b * shrink, c_b, gradient.v)]


ATTENTION = Transfer(attend, attend_back, attend_weight)
SOFTMAX, MATMUL = Transfer(softmax, softmax_back), Transfer(matmul, matmul_back)
