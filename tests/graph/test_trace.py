"""Tracing models as people write them."""

import copy
import inspect
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

sys.path.insert(0, str(Path(__file__).parent))

import torch.nn.functional as F  # noqa: E402
import trace_nets  # noqa: E402
from torch import nn  # noqa: E402

from gradlint.graph.model import KINDS, WEIGHTED  # noqa: E402
from gradlint.graph.topology import Topology  # noqa: E402
from gradlint.graph.trace import TraceError, trace_module  # noqa: E402
from gradlint.graph.trace_symbolic import symbolic_graph  # noqa: E402
from gradlint.graph.walk import OperationWalk  # noqa: E402
from gradlint.worker.protocol import InputHint  # noqa: E402


def trace(net, **kwargs):
    return trace_module(net if isinstance(net, nn.Module) else net(), **kwargs)


def chain(graph, *kinds):
    return [n.op for n in graph.nodes if not kinds or n.kind in kinds]


EXPECTED = {
    # weighted layers, residual adds, way of tracing
    "LeNet": (5, 0, "recording"),
    "MnistConv": (4, 0, "recording"),
    "FlattenedImages": (3, 0, "recording"),
    "Residual": (8, 3, "recording"),
    "ManualRNN": (2, 0, "recording"),
    "NameRNN": (2, 0, "recording"),
    "StackedCells": (3, 0, "recording"),
    "LanguageModel": (2, 0, "recording"),
    "SentimentLSTM": (2, 0, "recording (cpu)"),
    "MiniGPT": (9, 4, "recording"),
    "Seq2SeqTransformer": (8, 5, None),
    "UNet": (5, 0, "recording"),
    "Generator": (2, 0, "recording"),
    "VAE": (5, 0, "recording"),
    "ActorCritic": (3, 0, None),
    "Highway": (8, 0, "recording"),
    "SqueezeExcite": (3, 0, "recording"),
    "DecidesByValue": (2, 0, "recording (cpu)"),
    "DictBatch": (1, 0, "recording"),
    "FrozenBackbone": (2, 0, "recording"),
    "WeightNormed": (2, 0, "recording"),
    "Attended": (2, 0, "recording"),
    "ByHandNorm": (3, 0, "recording"),
    "Siamese": (4, 0, "recording"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_counts_of_handwritten_nets(name):
    graph = trace(trace_nets.NETS[name]).graph
    weighted, skips, way = EXPECTED[name]
    assert sum(n.kind in WEIGHTED for n in graph.nodes) == weighted
    assert sum(s.kind == "add" for s in Topology(graph).skips) == skips
    assert way in (None, graph.traced_by)


@pytest.mark.parametrize("name", trace_nets.NETS)
def test_graphs_are_well_formed(name):
    graph = trace(trace_nets.NETS[name]).graph
    names = [n.name for n in graph.nodes]
    assert len(set(names)) == len(names)
    assert [n.id for n in graph.nodes] == list(range(len(graph.nodes)))
    for node in graph.nodes:
        assert node.kind in KINDS
        assert all(i < node.id for i in node.inputs)
        assert set(node.parameters.values()) <= set(graph.parameter)
        for axis in (node.batch_axis, node.feature_axis):
            assert node.shape is None or axis is None or -len(node.shape) <= axis < len(node.shape)
    assert graph.nodes[-1].kind == "output"


class Names(OperationWalk):
    def __init__(self, module):
        super().__init__(module)
        self.seen = []

    def operation(self, call, run):
        self.seen.append(call.name)
        return run()


@pytest.mark.parametrize("name", ["LeNet", "Residual", "ManualRNN", "StackedCells", "MiniGPT", "Highway", "VAE"])
def test_a_real_run_meets_the_operations_of_the_graph_under_their_names(name):
    module = trace_nets.NETS[name]()
    traced = trace(module)
    args, kwargs = traced.inputs(batch_size=3)
    with Names(module) as walk:
        module(*args, **kwargs)
    nodes = [n for n in traced.graph.nodes if n.kind not in ("input", "parameter", "constant", "output")]
    operations = [n.name for n in nodes if ":" not in n.name]
    assert set(operations) <= set(walk.seen)
    assert len(walk.seen) == len(set(walk.seen))


def test_a_written_loop_over_time_is_one_recurrent_node():
    graph = trace(trace_nets.ManualRNN).graph
    (loop,) = graph.of_kind("recurrent")
    assert (loop.op, loop.attributes["steps"], loop.attributes["nonlinearity"]) == ("rnn", 32, "tanh")
    assert loop.parameters["weight_hh_l0"] == "h2h.weight"
    assert loop.parameters["weight_ih_l0"] == "i2h.weight"
    assert [graph.nodes[i].op for i in loop.inputs] == ["embedding"]


def test_cells_in_a_loop_fold_layer_by_layer():
    graph = trace(trace_nets.StackedCells).graph
    first, second = graph.of_kind("recurrent")
    assert (first.op, first.name, second.name) == ("lstm", "first", "second")
    assert first.attributes["steps"] == second.attributes["steps"] == 32
    assert Topology(graph).reaches(first.id, second.id)


def test_the_last_state_of_a_recurrent_layer_holds_samples_on_its_second_axis():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.fc = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x):
            _, (h, _) = self.lstm(x)
            return self.fc(h[-1])

    graph = trace(Net).graph
    state, last = (n for n in graph.nodes if n.op == "getitem")
    assert (state.shape, state.batch_axis) == ((1, 2, 16), 1)
    assert (last.shape, last.batch_axis, last.feature_axis) == ((2, 16), 0, -1)


def test_tied_depth_is_not_a_recurrence():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            for _ in range(6):
                x = torch.tanh(self.layer(x))
            return x

    graph = trace(Tied).graph
    assert not list(graph.of_kind("recurrent"))
    assert [n.name for n in graph.of_kind("linear")] == ["layer", *(f"layer#{k}" for k in range(2, 7))]


def test_what_no_grad_made_is_detached():
    graph = trace(trace_nets.FrozenBackbone).graph
    conv, head = next(graph.of_kind("conv")), next(graph.of_kind("linear"))
    assert any(n.op == "detach" for n in graph.nodes)
    assert not Topology(graph).reaches(conv.id, head.id)


def test_masks_leave_the_scores_as_they_are():
    graph = trace(trace_nets.MiniGPT).graph
    filled = [n for n in graph.nodes if n.op == "masked_fill"]
    assert [len(n.inputs) for n in filled] == [1, 1]
    assert not list(graph.of_kind("unknown"))


def test_parameters_as_operands():
    graph = trace(trace_nets.Attended).graph
    query = next(graph.of_kind("linear"))
    assert query.parameters["weight"] == "query"
    scale = next(n for n in graph.of_kind("parameter"))
    assert scale.name == "scale" and [graph.nodes[i].kind for i in (graph.consumers[scale.id])] == ["mul"]


def test_a_number_minus_a_gate_is_a_shift():
    graph = trace(trace_nets.Highway).graph
    shift = next(n for n in graph.of_kind("scale"))
    assert (shift.op, shift.attributes["factor"], shift.attributes["offset"]) == ("shift", -1.0, 1.0)


def test_lines_are_those_of_the_forward():
    graph = trace(trace_nets.LeNet).graph
    lines = Path(trace_nets.__file__).read_text().split("\n")
    fc3 = next(n for n in graph.nodes if n.name == "fc3")
    assert lines[fc3.location.line - 1].strip() == "return self.fc3(x)"
    assert fc3.location.path == trace_nets.__file__


def test_an_unknown_operation_is_named():
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * torch.sigmoid(x)

        @staticmethod
        def backward(ctx, g):
            return g

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(Swish.apply(self.a(x)))

    graph = trace(Net).graph
    assert chain(graph) == ["input", "linear", "Swish", "linear", "output"]
    assert next(graph.of_kind("unknown")).op == "Swish"


def test_an_in_place_update_of_a_slice_is_seen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(2, 4)

        def forward(self, x):
            h = self.a(x)
            h[:, :2] = torch.tanh(h[:, 2:])
            return self.b(h[:, :2])

    graph = trace(Net).graph
    tanh = next(n for n in graph.nodes if n.op == "tanh")
    last = next(n for n in graph.nodes if n.name == "b")
    assert Topology(graph).reaches(tanh.id, last.id)


def test_tracing_changes_neither_module_nor_random_state():
    module, decides, noisy = trace_nets.Residual(), trace_nets.DecidesByValue(), trace_nets.VAE()
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    trace(module)
    trace(decides)
    trace(noisy)
    after = module.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.Module.__call__.__name__ != "called"


def test_patches_are_taken_back_after_an_error():
    call = nn.Module.__call__
    with pytest.raises(ZeroDivisionError), OperationWalk(nn.Identity()):
        raise ZeroDivisionError
    assert nn.Module.__call__ is call


def test_the_users_input_wins_and_a_wrong_one_is_explained():
    traced = trace(trace_nets.LeNet, hint=InputHint(spec="4x3x32x32"))
    assert (traced.graph.input, traced.graph.batch_size) == ("4x3x32x32", 4)
    with pytest.raises(TraceError, match="given input") as caught:
        trace(trace_nets.LeNet, hint=InputHint(spec="1x3x28x28"))
    assert caught.value.location is None or caught.value.location.path == trace_nets.__file__


def test_the_data_sets_sample_decides_the_size():
    traced = trace(trace_nets.VAE, hint=InputHint(sample=(1, 28, 28)))
    assert traced.graph.input == "2x1x28x28"


def test_given_arguments_are_used():
    traced = trace(trace_nets.SqueezeExcite, args=(torch.zeros(5, 3, 8, 8),))
    assert next(traced.graph.of_kind("conv")).shape == (5, 16, 8, 8)


def test_a_model_without_a_possible_input_is_traced_symbolically():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, record):
            return F.relu(self.fc(record.left)) + record.right

    graph = trace(Net).graph
    assert (graph.traced_by, graph.confidence) == ("torch.fx", "medium")
    assert "relu" in chain(graph)
    assert all(n.shape is None for n in graph.of_kind("linear"))


def test_a_hopeless_model_is_one_clear_line():
    class Net(nn.Module):
        def forward(self, x):
            raise RuntimeError("the database\nis down")

    with pytest.raises(TraceError, match="the database is down"):
        trace(Net)


class LooksForNaN(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
            if torch.isnan(x.std()) or not torch.isfinite(x).all():
                break
        return x


def test_a_question_for_nan_is_answered_as_for_a_network_that_runs():
    traced = trace(LooksForNaN)
    assert traced.graph.traced_by == "recording"
    assert len(list(traced.graph.of_kind("linear"))) == 5


class NoisyLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.empty(8, 8).uniform_(-0.3, 0.3))
        self.sigma = nn.Parameter(torch.full((8, 8), 0.1))
        self.register_buffer("epsilon", torch.randn(8, 8))

    def forward(self, x):
        return F.linear(x, self.mu + self.sigma * self.epsilon)


def test_a_weight_made_of_several_parameters_starts_at_the_law_of_none_of_them():
    graph = trace(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), NoisyLinear()))
    _, noisy = graph.graph.of_kind("linear")
    assert graph.graph.weight_law(noisy).distribution == "unknown"


class TakesWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return F.softmax(self.fc(x), dim=1)


def test_a_symbolic_trace_tells_the_lines_of_the_forward():
    graph = symbolic_graph(TakesWords())
    located = {n.meta["gradlint"].op: n.meta["gradlint"].location for n in graph.nodes}
    line = inspect.getsourcelines(TakesWords.forward)[1] + 1
    assert (located["softmax"].path, located["softmax"].line) == (__file__, line)


class OneTokenAtATime(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.gru = nn.GRU(16, 16)

    def forward(self, token):
        return self.gru(self.embedding(token).view(1, 1, -1))[0]


def test_a_recurrence_that_takes_one_token_is_given_one():
    assert trace(OneTokenAtATime).graph.input == "int64:1x1<50"


class FewPositions(nn.Module):
    """Tables of positions that are shorter than a sequence that one would guess."""

    def __init__(self, looked_up):
        super().__init__()
        self.looked_up = looked_up
        self.words, self.positions, self.out = nn.Embedding(50, 16), nn.Embedding(13, 16), nn.Linear(16, 50)
        self.register_buffer("ids", torch.arange(40).unsqueeze(0))

    def forward(self, tokens):
        x, steps = self.words(tokens), torch.arange(tokens.shape[1], device=tokens.device)
        match self.looked_up:
            case "module":
                x = x + self.positions(steps)
            case "buffer":
                x = x + self.positions(self.ids[:, : tokens.shape[1]])
            case "offset":
                x = x + self.positions(steps.unsqueeze(0).expand_as(tokens) + 2)
            case "index":
                x = x + self.positions.weight[steps]
            case "function":
                x = x + F.embedding(steps, self.positions.weight)
        return self.out(x)


@pytest.mark.parametrize(
    ("looked_up", "length"), [("module", 13), ("buffer", 13), ("offset", 11), ("index", 13), ("function", 13)]
)
def test_a_sequence_is_no_longer_than_a_table_of_positions(looked_up, length):
    assert trace(lambda: FewPositions(looked_up)).graph.input == f"int64:2x{length}<50"


class Latents(nn.Module):
    """A learned token that attends to the signal (Perceiver, CaiT), behind a shortcut pooled by hand (Hiera)."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.norm, self.wide, self.proj = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.keys, self.values, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        n = self.norm(x)
        pooled = self.wide(n).view(x.shape[0], 2, 3, 8).amax(1)
        branch = self.proj(torch.relu(self.keys(n).view(x.shape[0], 2, 3, 8).mean(1)))
        x = pooled + branch
        token = self.token.expand(x.shape[0], -1, -1)
        weights = (token @ x.transpose(1, 2)).softmax(-1)
        return token + self.out(weights @ self.values(x))


def test_streams_of_learned_tokens_and_pooled_shortcuts_are_skips():
    graph = trace_module(Latents(), [torch.randn(2, 6, 8)]).graph
    assert sum(s.kind == "add" for s in Topology(graph).skips) == 2
