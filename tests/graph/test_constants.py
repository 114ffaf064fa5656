"""What a forward computes from constants alone keeps its values, though the run is without data."""

import math

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402

from gradlint.graph.trace import trace_module  # noqa: E402


class WithConstant(nn.Module):
    """A layer, and a `constant(self, x)` that its output is multiplied with."""

    def __init__(self, constant):
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("rates", 1.0 / 10.0 ** torch.arange(4.0))
        self.constant = constant

    def forward(self, x):
        return self.layer(x) * self.constant(self, x)


def factor(constant, meta=True):
    net = WithConstant(constant)
    graph = trace_module(net, [torch.randn(5, 8)]).graph
    found = [n for n in graph.nodes if n.kind == "constant"]
    return found[0].attributes if found else None


def rotary(net, x):
    angles = torch.arange(x.shape[0], device=x.device)[:, None] * net.rates
    return torch.cat((angles, angles), -1).cos()


def test_rotary_angles_have_their_moments():
    angles = torch.arange(5.0)[:, None] / 10.0 ** torch.arange(4.0)
    expected = torch.cat((angles, angles), -1).cos()
    found = factor(rotary)
    assert math.isclose(found["mean"], float(expected.mean()), rel_tol=1e-5)
    assert math.isclose(found["std"], float(expected.std(correction=0)), rel_tol=1e-5)


def test_a_constant_that_is_the_same_everywhere_is_a_number():
    assert factor(lambda net, x: torch.ones_like(x).cumsum(0)[2])["value"] == 3.0


def test_a_constant_that_is_filled_in_place_holds_what_was_written():
    def constant(net, x):
        code = torch.zeros(5, 8, device=x.device)
        code[:, 0::2] = torch.arange(4.0, device=x.device)
        return code

    assert factor(constant)["mean"] == pytest.approx(0.75)


def test_what_depends_on_the_input_is_no_constant():
    def written(net, x):
        code = torch.zeros(5, 8, device=x.device)
        code[0].copy_(x[0])
        return code

    for constant in (lambda net, x: x.detach().abs(), written, lambda net, x: net.layer.weight.sum()):
        graph = trace_module(WithConstant(constant), [torch.randn(5, 8)]).graph
        product = next(n for n in graph.nodes if n.kind == "mul")
        assert {graph.nodes[i].kind != "constant" for i in product.inputs} == {True}


def test_noise_keeps_its_law_and_is_not_drawn():
    found = factor(lambda net, x: torch.randn_like(x))
    assert (found["law"], found["mean"], found["std"]) == ("normal", 0.0, 1.0)


def test_an_empty_cache_is_not_concatenated():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            h = self.layer(x)
            return torch.cat([torch.tensor([], device=x.device), h], dim=-1)

    graph = trace_module(Cached(), [torch.randn(5, 8)]).graph
    assert [n.kind for n in graph.nodes] == ["input", "linear", "output"]
