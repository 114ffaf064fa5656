"""RNN, LSTM and GRU: the cell's moments iterated over the time steps.

Source: Pascanu et al. 2013 (§2) for the product of Jacobians over time; Chen et al. 2018 for mean-field gates.
The weights are the same at each step, so that the amplitudes of the cell path and of the recurrent path add:
the factor per step tends to (E f + √(recurrent part))², as the edge of a random matrix shifted by the forget gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gradlint.graph.profile import RecurrenceProfile
from gradlint.graph.signal.activation import activate
from gradlint.graph.signal.elementwise import elementwise
from gradlint.graph.signal.expectation import View
from gradlint.graph.signal.linear import coherence
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log, log_sum
from gradlint.graph.signal.transfer import (
    NOMINAL_WIDTH,
    Site,
    Transfer,
    Unclaimed,
    bias_moments,
    extent,
    weight_moments,
)

_SIGMOID, _TANH = "sigmoid", "tanh"
_SETTLED = 1e-5
_SHARE_TOLERANCE = 0.2
LONGEST = 256
"""Steps that are summed one by one; further ones multiply by the settled factor."""
_DECADE = math.log(10.0)


@dataclass
class Layer:
    """One layer (both directions alike) at its steps: fan of inputs and hidden units, variance of the input weights,
    `q_h` the settled second moment, `gate` the factor from ∂L/∂h (or ∂L/∂c) of a step to Σ over gates of ∂L/∂z,
    `enter` the factor from ∂L/∂h to the state that is carried. Of a step's factor on the squared gradient,
    `keep` goes through the cell, `recur` through the recurrent weights with a slope that stays, `stray` is what
    changes from step to step."""

    n_x: float
    n_h: float
    v_ih: float
    q_h: float
    keep: float
    recur: float
    stray: float
    gate: float
    enter: float
    x: Signal
    h: Signal

    @property
    def step(self) -> float:
        """Factor on the squared gradient per step back, over many steps."""
        return (math.sqrt(self.keep) + math.sqrt(self.recur)) ** 2 + self.stray

    @property
    def onto_hidden(self) -> float:
        """Factor from the squared gradient of the carried state to that of the hidden state one step earlier."""
        return self.step if self.enter == 1.0 else (self.recur + self.stray) / max(self.enter, 1e-300)

    def carried(self, steps: int) -> list[float]:
        """ln of the squared gradient's factor after 0, 1 … `steps` steps.

        The step is a + R with a² = keep and R a random matrix of radius r, r² = recur, the same at every step:
        E‖(a + R)^k u‖² = Σ_j C(k, j)² a^(2(k−j)) r^(2j), which tends to (a + r)^(2k); what changes between steps
        adds its energy.
        """
        log_a, log_r = log(self.keep), log(self.recur)
        firm = self.step - self.stray
        extra = math.log1p(self.stray / firm) if firm > 0.0 else log(self.stray)
        if NEVER in (log_a, log_r):
            single = max(log_a, log_r)
            return [k * (single + extra) if k and firm > 0.0 else k * extra if k else 0.0 for k in range(steps + 1)]
        factorial = [math.lgamma(k + 1.0) for k in range(steps + 1)]
        found = []
        for k in range(steps + 1):
            terms = [
                2.0 * (factorial[k] - factorial[j] - factorial[k - j]) + (k - j) * log_a + j * log_r
                for j in range(k + 1)
            ]
            found.append(log_sum(*terms) + k * extra)
        return found


def forward(site: Site) -> Signal:
    """q_z = n_x·v_ih·q_x + n_h·v_hh·q_h + b², then the cell, until it settles or the steps end."""
    if site.node.op not in ("rnn", "lstm", "gru"):
        raise Unclaimed(site.node.op)
    x = replace(site.inputs[0], parts=())
    hidden = float(site.attribute("hidden_size", NOMINAL_WIDTH))
    sides = 2.0 if site.attribute("bidirectional", False) else 1.0
    steps = _steps(site, x)
    layers = site.memory["layers"] = []
    for depth in range(int(site.attribute("num_layers", 1))):
        layer = _layer(site, depth, x, hidden, steps)
        layers.append(layer)
        x = replace(layer.h, features=hidden * sides)
    site.memory["steps"] = steps
    site.memory["carried"] = [layer.carried(min(steps, LONGEST)) for layer in layers]
    return replace(x, positions=1.0) if _hands_on_the_last_state(site) else x


def _hands_on_the_last_state(site: Site) -> bool:
    """Whether the loop of a recurrence written by hand leaves one state, not the sequence of all."""
    return site.memory["steps"] > 1 and extent(site, site.memory["layers"][-1].h)[1] == 1.0


def _at_last(site: Site, gradient: Gradient) -> Gradient:
    """The gradient as a mean over steps, where one state alone receives it."""
    if not _hands_on_the_last_state(site):
        return gradient
    steps = site.memory["steps"]
    return replace(
        gradient, log_g=gradient.log_g - math.log(steps), s=0.0, c=gradient.c / steps, e=gradient.pairs(1.0)[0],
        parts=(), last=True,
    )  # fmt: skip


def _steps(site: Site, x: Signal) -> int:
    steps = site.attribute("steps")
    return int(steps) if isinstance(steps, (int, float)) and steps else max(int(x.positions), 1)


def recurrence(site: Site) -> RecurrenceProfile | None:
    """‖∂h_T/∂h_0‖ of the last layer, None where the node was not evaluated or has no layers."""
    if not site.memory.get("carried"):
        return None
    layer, steps = site.memory["layers"][-1], site.memory["steps"]
    carried = site.memory["carried"][-1]
    whole = carried[min(steps, len(carried)) - 1] + max(steps - len(carried), 0) * log(layer.step)
    whole += log(layer.enter) + log(layer.onto_hidden)
    return RecurrenceProfile(steps, 0.5 * log(layer.step) / _DECADE, 0.5 * whole / _DECADE)


def _layer(site: Site, depth: int, x: Signal, hidden: float, steps: int) -> Layer:
    n_x = x.features
    suffix = f"_l{depth}" if site.has(f"weight_ih_l{depth}") else ""
    v_ih = sum(_squares(weight_moments(site, f"weight_ih{suffix}", n_x)))
    v_hh = sum(_squares(weight_moments(site, f"weight_hh{suffix}", hidden)))
    bias, shift = 0.0, 0.0
    for side in ("ih", "hh"):
        law = bias_moments(site, f"bias_{side}{suffix}")
        written = _one_gate(site, law)
        shift += written
        bias += _squares(law)[0] + _squares(law)[1] if not written else 0.0
    q_x = math.exp(min(x.log_q, 600.0))
    cell = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}[site.node.op]
    h = Signal(NEVER, ds=0.0, dc=0.0, batch=x.batch, positions=x.positions, features=hidden)
    state, q_h = 0.0, 0.0
    if len(site.inputs) > 1 and site.inputs[1].log_q != NEVER:
        q_h = math.exp(min(site.inputs[1].log_q, 600.0))
    layer = None
    for _ in range(min(steps, 200)):
        own, recurrent = n_x * v_ih * q_x, hidden * v_hh * q_h
        q_z = own + recurrent + bias
        ds = (own * x.ds + recurrent * h.ds) / q_z if q_z else 1.0
        dc = (own * x.dc + recurrent * h.dc) / q_z if q_z else 1.0
        z = Signal(log(q_z), 0.0, ds, dc, None, 0.0, 0.0, x.batch, x.positions, hidden)
        h, state, parts = cell(site, z, Entry(state, q_h, hidden * v_hh, recurrent, shift))
        before, q_h = q_h, math.exp(min(h.log_q, 600.0))
        layer = Layer(n_x, hidden, v_ih, q_h, parts.keep, parts.recur, parts.stray, parts.gate, parts.enter, x, h)
        if abs(q_h - before) < _SETTLED * q_h:
            break
    if layer is None:
        raise Unclaimed("a recurrence of no steps")
    return layer


def _squares(law: tuple[float, float]) -> tuple[float, float]:
    return law[0], law[1] ** 2


def _one_gate(site: Site, law: tuple[float, float]) -> float:
    """The constant that init code wrote to one gate of a bias, 0 where it wrote none.

    A constant b on a share p of the elements gives the mixture E x = pb and E x² = pb²: p = (E x)²/E x². A share
    of one gate is the forget gate of an LSTM (Jozefowicz et al. 2015) or the update gate of a GRU.
    """
    gates = {"lstm": 4, "gru": 3}.get(site.node.op)
    variance, mean = law
    if gates is None or mean == 0.0:
        return 0.0
    share = mean * mean / (variance + mean * mean)
    return mean / share if abs(share * gates - 1.0) < _SHARE_TOLERANCE else 0.0


@dataclass(frozen=True)
class Entry:
    """What a step starts from: E c², E h², n_h·v_hh, the recurrent part of E z², and the constant bias of the gate
    that keeps the state."""

    state: float
    q_h: float
    power: float
    recurrent: float
    shift: float


@dataclass(frozen=True)
class Parts:
    """The factors of `Layer` at one step."""

    keep: float
    recur: float
    stray: float
    gate: float
    enter: float


@dataclass(frozen=True)
class _Moments:
    """E φ, E φ², E φ′, E φ′² of a gate."""

    mean: float
    square: float
    slope: float
    slope_square: float


def _gate(z: Signal, name: str, shift: float = 0.0) -> tuple[_Moments, Signal]:
    f = elementwise(name, {})
    assert f is not None
    if shift:
        q = math.exp(z.log_q) + shift * shift
        share = math.exp(z.log_q) / q
        z = replace(z, log_q=math.log(q), m=shift / math.sqrt(q), ds=z.ds * share, dc=z.dc * share)
    out = activate(z, f)
    square = math.exp(out.log_q)
    view = View(z, f) if z.log_q != NEVER else None
    slope = view.moments.slope_mean if view else f.slope(0.0)
    slope_square = view.moments.slope_square if view else slope * slope
    return _Moments(out.m * math.sqrt(square), square, slope, slope_square), out


def _rnn(site: Site, z: Signal, entry: Entry) -> tuple[Signal, float, Parts]:
    gate, out = _gate(z, str(site.attribute("nonlinearity", _TANH)))
    return out, 0.0, Parts(0.0, entry.power * gate.slope_square, 0.0, gate.slope_square, 1.0)


def _lstm(site: Site, z: Signal, entry: Entry) -> tuple[Signal, float, Parts]:
    """q_c = E f²·q_c + E i²·E g² + 2 E f·E i·E g c, q_h = E o²·E tanh(c)²; the cross term
    E g c = E i·s_g·E g²/(1 − E f) is what inputs that persist over time (a bias, a layer below) add up to."""
    gate, shared = _gate(z, _SIGMOID)
    forget, _ = _gate(z, _SIGMOID, entry.shift) if entry.shift else (gate, shared)
    new, g = _gate(z, _TANH)
    persists = gate.mean * max(g.s, 0.0) * new.square / (1.0 - min(forget.mean, 0.999)) if entry.state else 0.0
    q_c = forget.square * entry.state + gate.square * new.square + 2.0 * forget.mean * gate.mean * persists
    c = replace(g, log_q=log(q_c))
    squashed, out = _gate(c, _TANH)
    enter = gate.square * squashed.slope_square
    ds, dc = (1.0 - (1.0 - out.ds) * shared.s, 1.0 - (1.0 - out.dc) * shared.c)
    h = replace(out, log_q=log(gate.square * squashed.square), ds=ds, dc=dc)
    # Σ over i, f, g of ∂z, for ∂L/∂c of 1
    to_gates = gate.slope_square * new.square + forget.slope_square * entry.state
    inner = to_gates + gate.square * new.slope_square
    firm = (gate.mean * squashed.slope * gate.mean * new.slope) ** 2 * entry.power
    through = enter * entry.power * inner + entry.power * gate.slope_square * squashed.square
    keep = forget.mean**2
    return h, q_c, Parts(keep, firm, max(through - firm, 0.0) + forget.square - keep, inner, enter)


def _gru(site: Site, z: Signal, entry: Entry) -> tuple[Signal, float, Parts]:
    """h′ = (1 − z)n + z·h with n = tanh(Wx + r·Uh); E n h = s_n·E n² for inputs that persist."""
    gate, shared = _gate(z, _SIGMOID)
    update, _ = _gate(z, _SIGMOID, entry.shift) if entry.shift else (gate, shared)
    q_z = math.exp(z.log_q)
    inner = replace(z, log_q=log(max(q_z - entry.recurrent * (1.0 - gate.square), 0.0)))
    new, n = _gate(inner, _TANH)
    persists = max(n.s, 0.0) * new.square if entry.q_h else 0.0
    rest = 1.0 - 2.0 * update.mean + update.square  # E (1 − z)²
    total = rest * new.square + update.square * entry.q_h + 2.0 * (update.mean - update.square) * persists
    ds, dc = (1.0 - (1.0 - n.ds) * shared.s, 1.0 - (1.0 - n.dc) * shared.c)
    h = replace(n, log_q=log(total), ds=ds, dc=dc)
    to_new = rest * new.slope_square
    to_gate, to_reset = (
        update.slope_square * (new.square + entry.q_h),
        to_new * gate.slope_square * entry.recurrent,
    )
    firm = ((1.0 - update.mean) * new.slope * gate.mean) ** 2 * entry.power
    through = entry.power * (to_new * gate.square + to_gate + to_reset)
    keep = update.mean**2
    stray = max(through - firm, 0.0) + update.square - keep
    return h, 0.0, Parts(keep, firm, stray, to_new + to_gate + to_reset, 1.0)


def _energies(layer: Layer, carried: list[float], gradient: Gradient, steps: int) -> tuple[float, float]:
    """(ln of the mean over steps of the carried state's G, ln of that at the first step)."""
    start = gradient.log_g + log(layer.enter)
    short = carried[:steps]
    if gradient.last:
        # All of the gradient stands at the last step: P times the mean.
        return start + log_sum(*short), start + math.log(steps) + short[-1] + (steps - len(short)) * log(layer.step)
    # A gradient at every step: each state sums what later steps send back.
    whole = start + log_sum(*short)
    return whole, whole


def backward(site: Site, gradient: Gradient) -> list[Gradient]:
    """G_x = n_h·v_ih·Σ over gates of G_z at each step; an initial state receives what is left at the first step."""
    gradient = _at_last(site, gradient)
    g, first = gradient, []
    for layer, carried in zip(reversed(site.memory["layers"]), reversed(site.memory["carried"]), strict=True):
        if g.zero:
            break
        mean, begin = _energies(layer, carried, g, site.memory["steps"])
        first.append((layer, begin))
        rows = layer.n_h * (2.0 if site.attribute("bidirectional", False) else 1.0)
        spread = g.last and layer.step < 0.5
        g = Gradient(mean + log(rows * layer.v_ih * layer.gate), 0.0 if g.last else g.s, g.c / 2.0, g.v, last=spread)
    initial = [_onto_state(site, nth, first, gradient) for nth in range(1, len(site.inputs))]
    return [g, *initial]


def _onto_state(site: Site, nth: int, first: list[tuple[Layer, float]], gradient: Gradient) -> Gradient:
    """∂L/∂h₀ (second operand) or ∂L/∂c₀ (third): one step back from the first, mean over layers.

    An operand that is still a whole sequence (a source reader sees no pieces) gives its last state.
    """
    logs = []
    for layer, begin in first:
        logs.append(begin + log(layer.keep if nth == 2 else layer.onto_hidden))
    if not logs:
        return Gradient(NEVER)
    whole = log_sum(*logs) - math.log(len(logs))
    operand = site.producers[nth] if nth < len(site.producers) else None
    last = operand is not None and operand.node.kind == "recurrent"
    share = math.log(max(site.inputs[nth].positions, 1.0)) if last else 0.0
    return Gradient(whole - share, 0.0, gradient.c / 2.0, gradient.v, last=last)


def weight(site: Site, gradient: Gradient) -> float:
    """ln of ‖∂W_ih‖² + ‖∂W_hh‖², all layers and gates: sums over steps and samples of ∂z·xᵀ and ∂z·hᵀ."""
    g, terms = _at_last(site, gradient), []
    steps = site.memory["steps"]
    for layer, carried in zip(reversed(site.memory["layers"]), reversed(site.memory["carried"]), strict=True):
        if g.zero:
            break
        mean, _ = _energies(layer, carried, g, steps)
        energy = mean + log(layer.gate) + math.log(layer.n_h * layer.h.batch * steps)
        inner = replace(g, s=0.0 if g.last else g.s)
        for fan, x, log_q in ((layer.n_x, layer.x, layer.x.log_q), (layer.n_h, layer.h, layer.h.log_q)):
            terms.append(energy + math.log(fan) + log_q + math.log(coherence(x, inner, float(steps))))
        g = replace(inner, log_g=mean + log(layer.n_h * layer.v_ih * layer.gate), last=g.last and layer.step < 0.5)
    return log_sum(*terms) if terms else NEVER


RECURRENT = Transfer(forward, backward, weight)
