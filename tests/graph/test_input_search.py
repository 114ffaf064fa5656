"""What a model is called with where only its layers and the names of its arguments say so."""

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from gradlint.graph.trace import trace_module  # noqa: E402
from gradlint.worker.protocol import InputHint  # noqa: E402


class Coordinates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x, t):
        return self.net(torch.cat([x, t], dim=1))


class GraphConvolution(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x, adj):
        return torch.spmm(adj, torch.mm(x, self.weight))


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GraphConvolution(20, 16), GraphConvolution(16, 7)

    def forward(self, x, adj):
        return self.second(F.dropout(torch.relu(self.first(x, adj)), 0.5, self.training), adj)


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.rnn, self.head = nn.GRU(8, 8), nn.Linear(8, 50)

    def forward(self, src, trg, teacher_forcing_ratio):
        _, hidden = self.rnn(self.embedding(src))
        token, outputs = trg[0], []
        for step in range(1, trg.shape[0]):
            output, hidden = self.rnn(self.embedding(token).unsqueeze(0), hidden)
            outputs.append(self.head(output[0]))
            token = trg[step] if torch.rand(()).item() < teacher_forcing_ratio else outputs[-1].argmax(-1)
        return torch.stack(outputs)


def test_coordinates_share_the_columns_of_the_first_layer():
    assert str(trace_module(Coordinates()).spec) == "2x1, 2x1"


def test_a_graph_net_gets_a_node_a_row_and_an_adjacency_that_keeps_the_scale():
    traced = trace_module(GraphNet())
    assert str(traced.spec) == "32x20, adjacency:32x32"
    (x, adjacency), _ = traced.inputs(seed=3)
    assert torch.allclose(adjacency.sum(1), torch.ones(32))
    assert 0.3 < float((adjacency @ x).std()) < 0.7


def test_the_share_of_teacher_forcing_is_a_number():
    spec = trace_module(Seq2Seq()).spec
    assert spec is not None and spec.items[2].value == 0.5


class Switched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x, use_skip, device):
        hidden = self.fc(x) + torch.zeros(6, device=device)
        return hidden + x if use_skip else hidden


def test_a_switch_and_a_device_are_no_tensors():
    assert str(trace_module(Switched()).spec) == "2x6, False, 'cpu'"


class TimeEmbedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8)

    def forward(self, x, t):
        angles = t[:, None].float() * torch.arange(8, device="cuda")
        h = self.stem(x).to("cuda").view(-1, 8, 64 * 64).transpose(1, 2)
        return self.head(h) + torch.sin(angles)[:, None]


def test_an_accelerator_that_a_forward_names_is_where_the_model_is_and_its_sizes_are_followed():
    traced = trace_module(TimeEmbedded())
    assert str(traced.spec) == "2x3x64x64, int64:2<1000"
    assert traced.names_device


def test_a_layer_that_takes_no_images_gets_the_pixels_in_a_row():
    net = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 1))
    assert str(trace_module(net, hint=InputHint(sample=(1, 28, 28))).spec) == "2x784"


class Captions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(50, 12), nn.LSTM(12, 20, batch_first=True)
        self.head = nn.Linear(20, 50)

    def forward(self, features, captions):
        steps = torch.cat((features.unsqueeze(1), self.words(captions)), 1)
        return self.head(self.rnn(steps)[0])


def test_what_stands_before_the_tokens_of_a_decoder_has_their_width():
    assert str(trace_module(Captions()).spec) == "2x12, int64:2x32<50"
