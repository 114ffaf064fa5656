"""Making a model graph of a recorded run: which edges stay, which operations become one."""

import math

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from gradlint.graph.lower import Origins, lower  # noqa: E402
from gradlint.graph.model import InitLaw  # noqa: E402
from gradlint.graph.record import Recorder  # noqa: E402


class Net(nn.Module):
    """Two layers, a parameter and a buffer for a `forward` that each test brings along."""

    def __init__(self, run):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.register_buffer("position", torch.zeros(8))
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def lowered(run, shape=(4, 8), laws=None):
    net = Net(run)
    recorder = Recorder(net)
    recorder.run((torch.randn(shape),), {})
    return lower(recorder.graph, net, Origins(laws or {}))


def ops(graph):
    return [n.op for n in graph.nodes]


def between(graph):
    return [n.op for n in graph.nodes if n.kind not in ("input", "output")]


# ---- identities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "same",
    [
        lambda h: h.contiguous(),
        lambda h: h.to(torch.float64).float(),
        lambda h: h.clone(),
        lambda h: nn.Identity()(h),
        lambda h: F.dropout(h, 0.0),
        lambda h: F.dropout(h, 0.5, training=False),
    ],
)
def test_what_changes_nothing_is_no_node(same):
    graph = lowered(lambda m, x: m.b(same(m.a(x))))
    assert between(graph) == ["linear", "linear"]
    assert graph.nodes[2].inputs == (1,)


def test_detach_and_dropout_stay():
    assert between(lowered(lambda m, x: m.b(m.a(x).detach()))) == ["linear", "detach", "linear"]
    assert between(lowered(lambda m, x: m.b(F.dropout(m.a(x), 0.3)))) == ["linear", "dropout", "linear"]


def test_a_cast_of_ids_to_floats_stays():
    def run(m, x):
        return m.a((x > 0).long().float())

    assert "linear" in between(lowered(run))


def test_an_operation_that_no_output_needs_is_gone():
    def run(m, x):
        m.b(x)
        return m.a(x)

    assert [n.name for n in lowered(run).nodes] == ["input", "a", "output"]


# ---- edges -----------------------------------------------------------------------------------------------------


def test_sizes_make_no_edge():
    def run(m, x):
        h = m.a(x)
        return m.b(x).view(h.size(0), h.shape[1]) * math.sqrt(h.size(-1))

    graph = lowered(run)
    assert "a" not in [n.name for n in graph.nodes]
    assert graph.nodes[-2].attributes["factor"] == pytest.approx(math.sqrt(8))


def test_a_comparison_decides_and_carries_no_signal():
    graph = lowered(lambda m, x: torch.where(m.a(x) > 0, m.b(x), 0.0))
    filled = next(n for n in graph.nodes if n.op == "masked_fill")
    assert [graph.nodes[i].name for i in filled.inputs] == ["b"]
    assert "a" not in [n.name for n in graph.nodes]


def test_both_operands_of_an_add_are_edges_in_order():
    graph = lowered(lambda m, x: m.a(x) - m.b(x))
    sub = next(n for n in graph.nodes if n.op == "sub")
    assert [graph.nodes[i].name for i in sub.inputs] == ["a", "b"]


def test_arithmetic_on_constants_is_one_constant():
    def run(m, x):
        code = torch.arange(8.0).sin() * 2
        return m.a(x) + code

    graph = lowered(run)
    assert [n.kind for n in graph.nodes if n.kind not in ("input", "output")] == ["constant", "linear", "add"]


def test_what_no_grad_computed_is_cut_off_by_a_detach():
    def run(m, x):
        with torch.no_grad():
            h = m.a(x)
        return m.b(h)

    assert between(lowered(run)) == ["linear", "detach", "linear"]


# ---- pieces ----------------------------------------------------------------------------------------------------


def test_each_piece_of_a_split_is_a_node_of_its_own():
    def run(m, x):
        left, right = m.a(x).chunk(2, dim=-1)
        return left * torch.sigmoid(right)

    graph = lowered(run)
    pieces = [n for n in graph.nodes if n.op == "getitem"]
    assert [(p.attributes["index"], p.shape) for p in pieces] == [("0", (4, 4)), ("1", (4, 4))]
    product = next(n for n in graph.nodes if n.kind == "mul")
    assert len(product.inputs) == 2


def test_broadcast_tensors_hands_each_operand_on():
    def run(m, x):
        h, s = torch.broadcast_tensors(m.a(x), m.scale)
        return h * s

    graph = lowered(run)
    product = next(n for n in graph.nodes if n.kind == "mul")
    sources = [graph.nodes[graph.nodes[i].inputs[0]].name for i in product.inputs]
    assert sources == ["a", "scale"]


def test_of_several_outputs_the_trained_ones_come_in_order():
    def run(m, x):
        h = m.a(x)
        y = m.b(h)
        return {"class": y.argmax(1), "logits": y, "hidden": h, "ids": torch.arange(4)}

    graph = lowered(run)
    assert [graph.nodes[i].name for i in graph.nodes[-1].inputs] == ["b", "a"]


# ---- operations written out ------------------------------------------------------------------------------------

WRITTEN = {
    "silu": lambda h: h * torch.sigmoid(h),
    "silu by division": lambda h: h / (1 + torch.exp(-h)),
    "quick_gelu": lambda h: h * torch.sigmoid(1.702 * h),
    "gelu": lambda h: h * 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0))),
    "gelu tanh": lambda h: 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * torch.pow(h, 3)))),
    "gelu tanh by squares": lambda h: 0.5 * h * (1.0 + torch.tanh(h * 0.7978845608 * (1.0 + 0.044715 * h * h))),
    "mish": lambda h: h * torch.tanh(F.softplus(h)),
    "hardswish": lambda h: h * F.relu6(h + 3) / 6,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_written_out_activation_is_seen(name):
    graph = lowered(lambda m, x: m.b(WRITTEN[name](m.a(x))))
    assert between(graph) == ["linear", name.partition(" ")[0], "linear"]
    if name.startswith("gelu"):
        assert graph.nodes[2].attributes["approximate"] == ("tanh" if "tanh" in name else "none")


@pytest.mark.parametrize(
    "gate",
    [
        lambda h, x: h * torch.sigmoid(x),
        lambda h, x: h * torch.sigmoid(2 * h),
        lambda h, x: h * torch.tanh(h),
        lambda h, x: h * h.mean(-1, keepdim=True),
    ],
)
def test_another_product_stays_a_product(gate):
    assert [n.kind for n in lowered(lambda m, x: gate(m.a(x), x)).nodes].count("mul") == 1


def test_an_activation_of_an_activation_keeps_the_inner_one():
    def run(m, x):
        h = F.relu(m.a(x))
        return m.b(h * torch.sigmoid(h))

    assert between(lowered(run)) == ["linear", "relu", "silu", "linear"]


def test_x_minus_logsumexp_is_log_softmax():
    graph = lowered(lambda m, x: torch.distributions.Categorical(logits=m.a(x)).logits)
    assert between(graph) == ["linear", "log_softmax"]
    assert graph.nodes[2].attributes["dim"] in (-1, 1)


def test_a_fused_product_is_a_product_and_a_sum():
    graph = lowered(lambda m, x: torch.addcmul(m.a(x), m.b(x), x))
    product, total = graph.nodes[-3], graph.nodes[-2]
    assert (product.kind, total.kind) == ("mul", "add")
    assert [graph.nodes[i].name for i in product.inputs] == ["b", "input"]
    assert total.inputs == (1, product.id)


# ---- weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "product",
    [
        lambda m, x: F.linear(x, m.weight),
        lambda m, x: x @ m.weight,
        lambda m, x: x @ m.weight.T,
        lambda m, x: torch.matmul(x, m.weight.t()),
        lambda m, x: torch.mm(x, m.weight.transpose(0, 1)),
        lambda m, x: torch.addmm(m.scale, x, m.weight.t()),
    ],
)
def test_a_product_with_a_parameter_is_a_linear_layer(product):
    graph = lowered(product)
    (layer,) = graph.of_kind("linear")
    assert layer.parameters["weight"] == "weight"
    assert layer.inputs == (0,)
    assert (layer.attributes["in_features"], layer.attributes["out_features"]) == (8, 8)


def test_a_weight_that_is_computed_from_a_parameter_has_the_computed_law():
    law = InitLaw("normal", 0.0, 0.5, fan_in=8, gain_squared=2.0)
    graph = lowered(lambda m, x: F.linear(x, 0.1 * m.weight), laws={"weight": law})
    (layer,) = graph.of_kind("linear")
    assert (layer.parameters["weight"], layer.inputs) == ("weight", (0,))
    assert graph.weight_law(layer).std == pytest.approx(0.05, rel=0.25)
    assert not list(graph.of_kind("parameter", "scale"))


def test_weight_standardisation_gives_unit_rows():
    def run(m, x):
        w = m.weight - m.weight.mean(dim=1, keepdim=True)
        return F.linear(x, w / (w.std(dim=1, keepdim=True) + 1e-5))

    law = InitLaw("uniform", 0.0, 0.01, fan_in=8)
    (layer,) = (graph := lowered(run, laws={"weight": law})).of_kind("linear")
    assert graph.weight_law(layer).std == pytest.approx(math.sqrt(7 / 8), rel=1e-2)


def test_a_computed_weight_of_unknown_law_has_no_law():
    (layer,) = (graph := lowered(lambda m, x: F.linear(x, 0.1 * m.weight))).of_kind("linear")
    assert layer.parameters["weight"] == "weight"
    assert graph.weight_law(layer) is None


def test_a_weight_that_depends_on_the_data_is_no_parameter():
    def run(m, x):
        return F.linear(x, m.a(x).t() @ x)

    layers = [n for n in lowered(run).of_kind("linear") if n.name != "a"]
    assert [n.parameters for n in layers] == [{}]


# ---- loops -----------------------------------------------------------------------------------------------------


def test_a_cell_called_over_time_folds_and_what_follows_is_done_once():
    class Unrolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.GRUCell(8, 16), nn.Linear(16, 3)

        def forward(self, x):
            h = x.new_zeros(x.size(0), 16)
            ys = []
            for t in range(x.size(1)):
                h = self.cell(x[:, t], h)
                ys.append(self.out(h))
            return torch.stack(ys, dim=1)

    net = Unrolled()
    recorder = Recorder(net)
    recorder.run((torch.randn(2, 9, 8),), {})
    graph = lower(recorder.graph, net, Origins())
    (loop,) = graph.of_kind("recurrent")
    assert (loop.op, loop.attributes["steps"]) == ("gru", 9)
    assert [n.name for n in graph.of_kind("linear")] == ["out"]


def test_layers_of_one_shape_in_a_row_are_not_a_loop():
    net = nn.Sequential(*[nn.Linear(8, 8) for _ in range(6)])
    recorder = Recorder(net)
    recorder.run((torch.randn(2, 8),), {})
    graph = lower(recorder.graph, net, Origins())
    assert ops(graph) == ["input", *["linear"] * 6, "output"]
