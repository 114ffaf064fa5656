"""Traced nets: weight gradients and activations against one real forward and backward pass."""

from __future__ import annotations

import math

import pytest

from gradlint.graph.model import Loss
from gradlint.graph.signal import profile

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.torch


def compared(build, x, seeds=3):
    """(name, predicted log10 ‖∂W‖, measured) of every weighted layer, measured as mean log10 over seeds."""
    from dataclasses import replace

    from gradlint.graph.laws import LawRecorder
    from gradlint.graph.lower import Origins
    from gradlint.graph.trace import trace_module

    recorder = LawRecorder()
    with recorder:
        module = build()
    origins = Origins({n: recorder.law(p) for n, p in module.named_parameters()})
    graph = replace(trace_module(module, (x,), origins=origins).graph, loss=Loss("cross_entropy"))
    found = profile(graph, batch_size=x.shape[0])
    assert found.unknown_ops == ()
    runs = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = build().double()
        given = torch.randint(0, 50, x.shape) if x.dtype == torch.long else torch.randn(x.shape, dtype=torch.float64)
        out = net(given)
        rows = out.reshape(-1, out.shape[-1])
        F.cross_entropy(rows, torch.randint(0, rows.shape[-1], rows.shape[:1])).backward()
        runs.append({n: float(p.grad.norm()) for n, p in net.named_parameters()})
    table = []
    for layer in found.layers:
        names = [n for role, n in graph.nodes[layer.node].parameters.items() if "bias" not in role]
        truth = sum(math.log10(math.sqrt(sum(r[n] ** 2 for n in names))) for r in runs) / seeds
        table.append((layer.name, layer.weight_gradient, truth))
    return table


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.n1, self.n2, self.head = nn.BatchNorm2d(16), nn.BatchNorm2d(16), nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.relu(x + self.n2(self.b(F.relu(self.n1(self.a(x))))))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(50, 32), nn.LayerNorm(32)
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.head = nn.Linear(32, 50)

    def forward(self, ids):
        x = self.embed(ids)
        y = self.norm(x)
        w = torch.softmax(self.q(y) @ self.k(y).transpose(-2, -1) / math.sqrt(32), -1)
        return self.head(x + self.o(w @ self.v(y)))


class Recurrent(nn.Module):
    def __init__(self, cell, hidden=32):
        super().__init__()
        self.cell, self.head = cell(16, hidden, batch_first=True), nn.Linear(hidden, 10)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class LastState(nn.Module):
    """The second layer reads the first one's last state, and nothing else of it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(16, 32, batch_first=True), nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        _, (h, _) = self.first(x)
        return self.head(self.second(x, h)[0])


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.down, self.up, self.head = nn.Linear(32, 8), nn.Linear(8, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = self.norm(self.b(x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))[:, :, None, None]))
        return self.head(F.relu(x).mean((2, 3)))


class Standardised(nn.Module):
    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5)


def standardised():
    layers = [m for _ in range(6) for m in (nn.Linear(64, 64), Standardised(), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def mlp():
    layers = [m for _ in range(8) for m in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


CASES = {
    "mlp": (mlp, (16, 64), 0.25),
    "residual": (Residual, (16, 3, 12, 12), 0.25),
    "squeeze": (Squeeze, (16, 3, 12, 12), 0.35),
    "standardised": (standardised, (16, 64), 0.3),
    "last state": (LastState, (16, 8, 16), 0.3),
    "attention": (Attention, None, 0.3),
    "rnn": (lambda: Recurrent(nn.RNN), (16, 12, 16), 0.2),
    "lstm": (lambda: Recurrent(nn.LSTM), (16, 12, 16), 0.2),
    "gru": (lambda: Recurrent(nn.GRU), (16, 12, 16), 0.2),
}


@pytest.mark.parametrize("name", CASES)
def test_weight_gradients_within_a_fraction_of_a_decade(name):
    torch.set_num_threads(1)
    build, shape, tolerance = CASES[name]
    x = torch.randn(shape) if shape else torch.zeros(16, 12, dtype=torch.long)
    for layer, predicted, measured in compared(build, x):
        assert predicted == pytest.approx(measured, abs=tolerance), layer


def with_forget_bias(value):
    net = Recurrent(nn.LSTM, 64)
    with torch.no_grad():
        net.cell.bias_ih_l0[64:128].fill_(value)
    return net


@pytest.mark.parametrize(
    "build",
    [
        lambda: Recurrent(nn.RNN, 64),
        lambda: Recurrent(nn.LSTM, 64),
        lambda: Recurrent(nn.GRU, 64),
        lambda: with_forget_bias(2.0),
    ],
    ids=["rnn", "lstm", "gru", "forget bias"],
)
def test_the_gradient_that_reaches_the_first_step(build):
    """Within 1 decade over 40 steps, where one bias makes ten."""
    from gradlint.graph.laws import LawRecorder
    from gradlint.graph.lower import Origins
    from gradlint.graph.trace import trace_module

    torch.set_num_threads(1)
    recorder = LawRecorder()
    with recorder:
        module = build()
    origins = Origins({n: recorder.law(p) for n, p in module.named_parameters()})
    graph = trace_module(module, (torch.zeros(8, 40, 16),), origins=origins).graph
    (found,) = profile(graph, batch_size=8).recurrence.values()
    logs = []
    for seed in range(3):
        torch.manual_seed(seed)
        cell = build().double().cell
        h = torch.zeros(1, 8, 64, dtype=torch.float64, requires_grad=True)
        state = (h, torch.zeros_like(h)) if isinstance(cell, nn.LSTM) else h
        last = cell(torch.randn(8, 40, 16, dtype=torch.float64), state)[0][:, -1]
        seen = torch.randn_like(last)
        (reached,) = torch.autograd.grad((last * seen).sum(), h)
        logs.append(math.log10(float(reached.norm() / seen.norm())))
    assert found.steps == 40
    assert found.total == pytest.approx(sum(logs) / 3, abs=1.0)
