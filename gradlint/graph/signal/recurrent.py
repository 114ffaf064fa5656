"""RNN, LSTM and GRU: the cell's moments iterated over the time steps.

Source: Pascanu et al. 2013 (§2) for the product of Jacobians over time; Chen et al. 2018 for mean-field gates.
The weights are the same at each step, so that the amplitudes of the cell path and of the recurrent path add:
the factor per step is (√E f² + √(recurrent part))², as the edge of a random matrix shifted by the forget gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gradlint.graph.signal.activation import activate, back
from gradlint.graph.signal.elementwise import Elementwise, elementwise
from gradlint.graph.signal.linear import coherence
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log
from gradlint.graph.signal.transfer import NOMINAL_WIDTH, Site, Transfer, Unclaimed, bias_moments, weight_moments

_SIGMOID, _TANH, _RELU = "sigmoid", "tanh", "relu"
_SETTLED = 1e-5


@dataclass
class Layer:
    """One layer (both directions alike) at its steps: fan of inputs and hidden units, variances of the weights,
    `q_h`, `q_z` the settled second moments, `keep` E f², `gate` the factor from ∂L/∂h (or ∂L/∂c) of a step to
    Σ over gates of ∂L/∂z, `recur` the part of the step's factor that goes through the recurrent weights,
    `enter` the factor from ∂L/∂h to the state that is carried."""

    n_x: float
    n_h: float
    v_ih: float
    v_hh: float
    q_h: float
    keep: float
    gate: float
    recur: float
    enter: float
    x: Signal
    h: Signal

    @property
    def step(self) -> float:
        """Factor on the squared gradient per step back."""
        return (math.sqrt(self.keep) + math.sqrt(self.recur)) ** 2


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
    site.memory["recurrence"] = (steps, 0.5 * math.log10(max(layers[-1].step, 1e-300)))
    return x


def _steps(site: Site, x: Signal) -> int:
    steps = site.attribute("steps")
    return int(steps) if isinstance(steps, (int, float)) and steps else max(int(x.positions), 1)


def _layer(site: Site, depth: int, x: Signal, hidden: float, steps: int) -> Layer:
    n_x = x.features
    suffix = f"_l{depth}" if site.has(f"weight_ih_l{depth}") else ""
    v_ih = sum(_squares(weight_moments(site, f"weight_ih{suffix}", n_x)))
    v_hh = sum(_squares(weight_moments(site, f"weight_hh{suffix}", hidden)))
    bias = sum(sum(_squares(bias_moments(site, f"bias_{side}{suffix}"))) for side in ("ih", "hh"))
    q_x = math.exp(min(x.log_q, 600.0))
    cell = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}[site.node.op]
    h = Signal(NEVER, ds=0.0, dc=0.0, batch=x.batch, positions=x.positions, features=hidden)
    state, q_h = 0.0, 0.0
    layer = None
    for _ in range(min(steps, 200)):
        own, recurrent = n_x * v_ih * q_x, hidden * v_hh * q_h
        q_z = own + recurrent + bias
        ds = (own * x.ds + recurrent * h.ds) / q_z if q_z else 1.0
        dc = (own * x.dc + recurrent * h.dc) / q_z if q_z else 1.0
        z = Signal(log(q_z), 0.0, ds, dc, None, 0.0, 0.0, x.batch, x.positions, hidden)
        h, state, parts = cell(site, z, state, q_h, hidden * v_hh, recurrent)
        before, q_h = q_h, math.exp(min(h.log_q, 600.0))
        keep, gate, recur, enter = parts
        layer = Layer(n_x, hidden, v_ih, v_hh, q_h, keep, gate, recur, enter, x, h)
        if abs(q_h - before) < _SETTLED * q_h:
            break
    if layer is None:
        raise Unclaimed("a recurrence of no steps")
    return layer


def _squares(law: tuple[float, float]) -> tuple[float, float]:
    return law[0], law[1] ** 2


Parts = tuple[float, float, float, float]


def _function(name: str) -> Elementwise:
    f = elementwise(name, {})
    assert f is not None
    return f


def _slope(z: Signal, name: str) -> float:
    return math.exp(back(Gradient(0.0), z, _function(name)).log_g)


def _square(z: Signal, name: str) -> float:
    return math.exp(activate(z, _function(name)).log_q)


def _rnn(
    site: Site, z: Signal, state: float, q_h: float, power: float, recurrent: float
) -> tuple[Signal, float, Parts]:
    name = str(site.attribute("nonlinearity", _TANH))
    slope = _slope(z, name)
    return activate(z, _function(name)), 0.0, (0.0, slope, power * slope, 1.0)


def _lstm(
    site: Site, z: Signal, state: float, q_h: float, power: float, recurrent: float
) -> tuple[Signal, float, Parts]:
    """q_c = E σ²(q_c + E tanh²) + 2 E σ²·E g c, q_h = E σ²·E tanh(c)²; the cross term E g c = E σ·s_g·E g²/(1 − E σ)
    is what inputs that persist over time (a bias, a layer below) add up to in the cell."""
    gate, gate_slope = _square(z, _SIGMOID), _slope(z, _SIGMOID)
    new, new_slope = activate(z, _function(_TANH)), _slope(z, _TANH)
    q_new = math.exp(new.log_q)
    shared = activate(z, _function(_SIGMOID))
    mean = math.exp(0.5 * shared.log_q) * shared.m
    persists = mean * max(new.s, 0.0) * q_new / (1.0 - mean) if state else 0.0
    q_c = gate * (state + q_new) + 2.0 * mean * mean * persists
    c = replace(new, log_q=log(q_c))
    out = activate(c, _function(_TANH))
    q_tanh_c, enter = math.exp(out.log_q), gate * _slope(c, _TANH)
    ds, dc = (1.0 - (1.0 - out.ds) * shared.s, 1.0 - (1.0 - out.dc) * shared.c)
    h = replace(out, log_q=log(gate * q_tanh_c), ds=ds, dc=dc)
    inner = gate_slope * (q_new + state) + gate * new_slope  # Σ over i, f, g of ∂z, for ∂L/∂c of 1
    through = enter * power * inner + power * gate_slope * q_tanh_c
    return h, q_c, (gate, inner, through, enter)


def _gru(
    site: Site, z: Signal, state: float, q_h: float, power: float, recurrent: float
) -> tuple[Signal, float, Parts]:
    """h′ = (1 − z)n + z·h with n = tanh(Wx + r·Uh); E n h = s_n·E n² for inputs that persist."""
    gate, gate_slope = _square(z, _SIGMOID), _slope(z, _SIGMOID)
    q_z = math.exp(z.log_q)
    inner = replace(z, log_q=log(max(q_z - recurrent * (1.0 - gate), 0.0)))
    new, new_slope = activate(inner, _function(_TANH)), _slope(inner, _TANH)
    q_new = math.exp(new.log_q)
    shared = activate(z, _function(_SIGMOID))
    mean = math.exp(0.5 * shared.log_q) * shared.m
    persists = max(new.s, 0.0) * q_new if q_h else 0.0
    total = gate * (q_new + q_h) + 2.0 * (mean - gate) * persists
    ds, dc = (1.0 - (1.0 - new.ds) * shared.s, 1.0 - (1.0 - new.dc) * shared.c)
    h = replace(new, log_q=log(total), ds=ds, dc=dc)
    to_new = gate * new_slope
    to_gate, to_reset = gate_slope * (q_new + q_h), to_new * gate_slope * recurrent
    through = power * (to_new * gate + to_gate + to_reset)
    return h, 0.0, (gate, to_new + to_gate + to_reset, through, 1.0)


def _energies(layer: Layer, gradient: Gradient, steps: int) -> tuple[float, float]:
    """(ln of the mean over steps of the carried state's G, ln of that at the first step)."""
    log_step = log(layer.step)
    start = gradient.log_g + log(layer.enter)
    if gradient.last:
        # All of the gradient stands at the last step: P times the mean.
        whole = start + math.log(steps)
        terms = [whole + k * log_step for k in range(steps)]
        top = max(terms)
        mean = top + math.log(math.fsum(math.exp(t - top) for t in terms) / steps)
        return mean, terms[-1]
    # A gradient at every step: geometric sum over later steps, in steady state and capped by the steps left.
    ratio = layer.step
    sums = (
        float(steps) if abs(ratio - 1.0) < 1e-9 else (1.0 - ratio**steps) / (1.0 - ratio) if ratio < 1e3 else ratio**3
    )
    return start + log(max(sums, 1.0)), start + log(max(sums, 1.0))


def backward(site: Site, gradient: Gradient) -> list[Gradient]:
    """G_x = n_h·v_ih·Σ over gates of G_z at each step."""
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    g = gradient
    for layer in reversed(site.memory["layers"]):
        if g.zero:
            break
        mean, _ = _energies(layer, g, site.memory["steps"])
        rows = layer.n_h * (2.0 if site.attribute("bidirectional", False) else 1.0)
        spread = g.last and layer.step < 0.5
        g = Gradient(mean + log(rows * layer.v_ih * layer.gate), 0.0 if g.last else g.s, g.c / 2.0, g.v, last=spread)
    return [g, *rest]


def weight(site: Site, gradient: Gradient) -> float:
    """ln of ‖∂W_ih‖² + ‖∂W_hh‖², all layers and gates: sums over steps and samples of ∂z·xᵀ and ∂z·hᵀ."""
    g, terms = gradient, []
    steps = site.memory["steps"]
    for layer in reversed(site.memory["layers"]):
        if g.zero:
            break
        mean, _ = _energies(layer, g, steps)
        energy = mean + log(layer.gate) + math.log(layer.n_h * layer.h.batch * steps)
        inner = replace(g, s=0.0 if g.last else g.s)
        for fan, x, log_q in ((layer.n_x, layer.x, layer.x.log_q), (layer.n_h, layer.h, layer.h.log_q)):
            terms.append(energy + math.log(fan) + log_q + math.log(coherence(x, inner, float(steps))))
        g = replace(inner, log_g=mean + log(layer.n_h * layer.v_ih * layer.gate), last=g.last and layer.step < 0.5)
    top = max(terms, default=NEVER)
    return top if top == NEVER else top + math.log(math.fsum(math.exp(t - top) for t in terms))


RECURRENT = Transfer(forward, backward, weight)
