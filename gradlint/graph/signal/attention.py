"""Attention as one operation: scores, softmax and the weighted mean of values.

Source: Noci et al. 2022 (rank collapse, §3) and Dong et al. 2021 for what attention does to the correlation
of tokens; the softmax of Gaussian scores is summarised by the effective number of keys 1/Σp².
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gradlint.graph.signal.layout import feature_axis
from gradlint.graph.signal.linear import coherence
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    log,
    log_sum,
    total,
)
from gradlint.graph.signal.softmax import Rows, masked, softmax_rows
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
    bias_moments,
    weight_moments,
)

_STEPS = 12
"""Moves of elements between a projection and an attention."""
_WINDOWED_RANK = 4
"""Below this rank the leading axis may hold heads as well."""


def head_correlation(x: Signal, tokens: float) -> float:
    """Correlation of two tokens within a head, where positions run over heads and tokens."""
    if tokens <= 1.0 or x.positions <= tokens:
        return max(min(x.s, 1.0), 0.0)
    whole = ((x.positions - 1.0) * x.s - (x.positions - tokens) * x.m * x.m) / (tokens - 1.0)
    return max(0.0, min(whole, 1.0))


def head_correlation_of_samples(x: Signal, tokens: float) -> float:
    """Correlation of two samples within a head, over all pairs of its tokens."""
    if tokens <= 1.0 or x.positions <= tokens:
        return x.c
    whole = (x.positions * x.c - (x.positions - tokens) * x.m * x.m) / tokens
    return max(0.0, min(whole, 1.0))


def windows(site: Site) -> float:
    """Windows of one image, whose tokens of one head are alike across them as within.

    They stand in the leading axis, (N·windows, heads, tokens, width), or behind the heads.
    """
    node, x = site.graph.nodes[site.node.inputs[0]], site.inputs[0]
    batch, shape = site.traced_batch, node.shape
    if not shape or len(shape) < _WINDOWED_RANK:
        return 1.0
    tokens = shape[-1] if feature_axis(node) == len(shape) - 2 else shape[-2]
    if x.groups > 1.0 and tokens:
        return max(x.positions / (x.groups * tokens), 1.0)
    if node.batch_axis != 0 or not batch or shape[0] is None:
        return 1.0
    behind = math.prod(n or 1 for n in shape[2:-2])
    return float(behind) * (shape[0] / batch if shape[0] % batch == 0 else 1.0)


@dataclass(frozen=True)
class Common:
    """What the gradient of a query holds beyond independent keys: `ratio` in units of theirs, with the correlations `s`
    and `c` of the gradient of the attention's output.

    Keys and values of a token are functions of the same n features, so that ∂L/∂q = Cov_p(k, v)·g has a part that all
    queries of all samples share: the covariance W_K·W_Vᵀ of variance q_K·q_V/n beside the A·q_K·q_V of A⁻¹ random
    keys: (1 − A)/(n·A). The gradient of W_K sums g_k·xᵀ over the keys and holds the same share in phase, which is told
    as a pull of n·ratio/(T − 1).
    """

    ratio: float = 0.0
    s: float = 0.0
    c: float = 0.0
    width: float = 1.0

    def pulled(self, g: Gradient, keys: float) -> Gradient:
        """The gradient of the `keys` keys of a head with what it has in common with them."""
        return replace(g, pull_s=self.ratio * self.width / (keys - 1.0)) if keys > 1.0 else g

    def added(self, g: Gradient) -> Gradient:
        """The gradient of the queries with this part."""
        part = self.ratio / (1.0 + self.ratio)
        return replace(
            g, log_g=g.log_g + math.log1p(self.ratio), s=g.s + part * (self.s - g.s), c=g.c + part * (self.c - g.c)
        )


def common(k: Site | None, v: Site | None, peak: float, g: Gradient) -> Common:
    """The common part of an attention over `k` and `v` with weights of E Σp² = `peak`; none where they are of
    different origin."""
    (first, n), (second, _) = _origin(k), _origin(v)
    return Common() if first is None or first != second else shared_part(peak, n, g)


def shared_part(peak: float, n: float, g: Gradient) -> Common:
    """The part that all queries share where keys and values are functions of the same `n` features."""
    return Common((1.0 - peak) / (n * max(peak, 1e-12)), max(g.s, 0.0), g.c, n) if n > 1.0 else Common()


def _origin(site: Site | None) -> tuple[int | None, float]:
    """(the node that a projection reads, its features)."""
    for _ in range(_STEPS):
        if site is None:
            break
        if site.node.kind in ("linear", "conv") and site.inputs:
            return site.node.inputs[0], site.inputs[0].features
        if site.node.kind not in ("reshape", "scale", "normalization"):
            break
        site = site.producers[0] if site.producers else None
    return None, 0.0


@dataclass(frozen=True)
class Heads:
    """One attention core, both ways. `s_*`: correlation of tokens in queries, keys, values; the scores carry the
    factor √scale_squared; `queries`: rows of scores in one head of one of `windows`."""

    rows: Rows
    q: Signal
    k: Signal
    v: Signal
    s_q: float
    s_k: float
    s_v: float
    width: float
    scale_squared: float
    queries: float
    windows: float = 1.0

    @property
    def mixed(self) -> float:
        """e = s_V + (1 − s_V)A: what averaging leaves of the values' energy."""
        return self.s_v + (1.0 - self.s_v) * self.rows.peak

    def forward(self) -> Signal:
        """q′ = q_V·e; s′ = (s_V + (1 − s_V)A′)/e; two samples keep c_V."""
        v, e = self.v, max(self.mixed, 1e-30)
        s = (self.s_v + (1.0 - self.s_v) * self.rows.pair) / e
        # Heads among the positions are the queries': several may share one head of values.
        # Two windows average different keys, which share s_V.
        p, tokens, alike = self.q.positions, self.queries, self.queries * (self.windows - 1.0)
        if p > tokens > 1.0:
            s = ((tokens - 1.0) * s + alike * self.s_v / e + (p - tokens - alike) * v.m * v.m) / (p - 1.0)
        de = None if v.de is None else 1.0 - min(max(v.c, 0.0) / e, 1.0)
        return replace(
            self.v, log_q=v.log_q + math.log(e), m=max(-1.0, min(1.0, v.m / math.sqrt(e))), ds=1.0 - min(s, 1.0),
            dc=1.0 - min(v.c / e, 1.0), de=de, batch=self.q.batch, positions=self.q.positions, parts=(),
        )  # fmt: skip

    def backward(self, g: Gradient) -> tuple[Gradient, Gradient, Gradient]:
        """R queries over T keys: G_V = (R/T)·G·(A + (R−1)A′·Gs), since a key collects from every query Σp²/T;
        G_Q = G·A(1−A)·q_V(1−s_V)·q_K(1−s_K)·d·a²; G_K alike with q_Q, times R/T."""
        t, r, a, pair = self.rows.keys, self.queries, self.rows.peak, self.rows.pair
        # Several heads of queries may share one of values, which then collects from all of them.
        per_key = self.q.positions / max(self.v.positions, 1.0)
        rows = r * self.windows
        gs = g.s if g.s <= 0 else min(g.s * max((self.q.positions - 1.0) / max(rows - 1.0, 1.0), 1.0), 1.0)
        onto_v = max(a + (r - 1.0) * pair * gs, 1e-12)
        # Rows sum to one: Σ p p′ over two keys is (1 − A)/(T − 1) within a row and (1 − A′) over two rows.
        over_keys = ((1.0 - a) + (r - 1.0) * (1.0 - pair) * gs) / max(t - 1.0, 1.0)
        s_v = min(max(over_keys / onto_v, 0.0), 1.0)
        # Keys of two windows have no row in common.
        apart, others = min(r / t * max(gs, 0.0) / onto_v, 1.0), t * (self.windows - 1.0)
        if self.v.positions > t:
            s_v = ((t - 1.0) * s_v + others * apart) / (self.v.positions - 1.0)
        c_v = max(-1.0, min(g.c * r / (t * onto_v), 1.0))
        g_v = Gradient(g.log_g + math.log(per_key * onto_v), s_v, c_v, g.v)
        core = g.log_g + log(a * (1.0 - a) * (1.0 - self.s_v) * self.width * self.scale_squared) + self.v.log_q
        g_q = Gradient(core + self.k.log_q + log(1.0 - self.s_k), 0.0, 0.0, g.v, lead=g.lead)
        kappa_ratio = min(pair / max(a, 1e-30), 1.0)
        bracket = max(1.0 + (r - 1.0) * gs * self.s_q * kappa_ratio, 1e-6)
        g_k = Gradient(core + self.q.log_q + math.log(per_key * bracket), 0.0, 0.0, g.v)
        return g_q, g_k, g_v


def heads(site: Site, q: Signal, k: Signal, v: Signal, width: float, tokens: float, queries: float) -> Heads:
    """The core of an attention of `queries` over `tokens` keys with heads of `width`."""
    scale = site.attribute("scale")
    squared = float(scale) ** 2 if isinstance(scale, (int, float)) and scale else 1.0 / width
    count = windows(site)
    s_q = head_correlation(q, queries * count)
    s_k, s_v = (head_correlation(x, tokens * count) for x in (k, v))
    variance = math.exp(min(q.log_q + k.log_q + log((1.0 - s_k) * width * squared), 20.0))
    causal = bool(site.attribute("causal", site.attribute("is_causal", False)))
    rows = softmax_rows(tokens, variance, s_q, causal, masked(site))
    return Heads(rows, q, k, v, s_q, s_k, s_v, width, squared, queries, count)


def _tokens(site: Site, x: Signal, nth: int) -> float:
    source = site.graph.nodes[site.node.inputs[min(nth, len(site.node.inputs) - 1)]]
    if source.shape is not None and len(source.shape) >= 3:
        length = source.shape[-2]
        if isinstance(length, int):
            return max(float(length), 1.0)
        heads = math.prod(n for n in source.shape[1:-2] if n is not None)
        return max(x.positions / max(heads, 1), 1.0)
    return max(x.positions, 1.0)


def attend(site: Site) -> Signal:
    """Scaled dot-product attention, or a whole multi-head attention with its projections."""
    if site.node.op == "scaled_dot_product_attention":
        q, k, v = (replace(x, parts=()) for x in site.inputs[:3])
        core = site.memory["core"] = heads(site, q, k, v, q.features, _tokens(site, k, 1), _tokens(site, q, 0))
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
    core = site.memory["core"] = heads(
        site, q, k, v, head, max(inputs[1].positions, 1.0), max(inputs[0].positions, 1.0)
    )
    mixed = site.memory["mixed"] = _dropped(site, core.forward())
    return _project(site, mixed, _role(site, "out"), width)


def attend_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """The gradients of queries, keys and values; of the tensors they were projected from."""
    core: Heads = site.memory["core"]
    rest = [Gradient(NEVER)] * max(len(site.inputs) - 3, 0)
    if gradient.zero:
        return [Gradient(NEVER)] * len(site.inputs)
    if site.node.op == "scaled_dot_product_attention":
        g_q, g_k, g_v = core.backward(gradient)
        together = common(site.producers[1], site.producers[2], core.rows.peak, gradient)
        return [together.added(g_q), together.pulled(g_k, core.rows.keys), g_v, *rest]
    through = _projected_back(site, gradient, "out")
    onto = [_projected_back(site, g, n) for g, n in zip(_onto(site, core, through), "qkv", strict=True)]
    count = len(site.inputs)
    if count >= 3:
        return [*onto, *rest]
    return [total(onto)] if count == 1 else [onto[0], total(onto[1:])]


def _onto(site: Site, core: Heads, g: Gradient) -> tuple[Gradient, Gradient, Gradient]:
    """The gradients of the projected queries, keys and values."""
    g_q, g_k, g_v = core.backward(g)
    ids = site.node.inputs
    if len(ids) >= 3 and ids[1] != ids[2]:
        return g_q, g_k, g_v
    together = shared_part(core.rows.peak, site.inputs[-1].features, g)
    return together.added(g_q), together.pulled(g_k, core.rows.keys), g_v


def attend_weight(site: Site, gradient: Gradient) -> float:
    """ln of the squared norm of the gradient of all projections together."""
    if site.node.op != "multi_head_attention" or gradient.zero:
        return NEVER
    core: Heads = site.memory["core"]
    through = _projected_back(site, gradient, "out")
    inputs = (site.inputs + [site.inputs[-1]] * 2)[:3]
    pairs = [(site.memory["mixed"], gradient), *zip(inputs, _onto(site, core, through), strict=True)]
    width = float(site.attribute("embed_dim", inputs[0].features))
    terms = [
        math.log(width * x.features * x.batch * x.positions)
        + x.log_q
        + g.log_g
        + math.log(coherence(x, g, x.positions, x.features))
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


ATTENTION = Transfer(attend, attend_back, attend_weight)
