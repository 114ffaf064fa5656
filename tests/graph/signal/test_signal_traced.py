"""Moments along small traced nets against the real operations: pools, masks, heads, noise; seeds are fixed."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from traced_nets import BATCH, Net, output, traced  # noqa: E402

from gradlint.graph.signal import profile  # noqa: E402
from gradlint.graph.signal.walk import evaluate  # noqa: E402


def test_a_max_pool_looks_through_concatenation_and_pool_at_the_rectifiers_behind():
    """An inception block's pool branch: energy, and what two samples share, within 3 %."""

    def rest(z):
        both = torch.cat([F.relu(z[:, :4]), F.relu(z[:, 4:])], dim=1)
        return F.max_pool2d(F.max_pool2d(both, 3, stride=2), 3, stride=1, padding=1)

    x = torch.randn(BATCH, 4, 16, 16)
    found = output(traced(lambda: Net(rest, nn.Conv2d(4, 8, 1, bias=False)), x), "max_pool")
    torch.manual_seed(0)
    y = rest(torch.randn(BATCH, 64, 16, 16, dtype=torch.float64))
    q = float(y.square().mean())
    mean = y.mean((0, 2, 3))
    assert found.m**2 == pytest.approx(float(mean.square().mean()) / q, abs=0.02)
    assert found.c == pytest.approx(found.m**2, abs=0.02)
    one, other = y[: BATCH // 2].flatten(2), y[BATCH // 2 :].flatten(2)
    near = float((one.sum(2) ** 2 - one.square().sum(2)).mean()) / (one.shape[2] * (one.shape[2] - 1)) / q
    assert found.s == pytest.approx(near, abs=0.02)
    assert float((one * other).mean()) / q == pytest.approx(found.c, abs=0.03)


def shifted(scores):
    """Attention in windows of four whose last two tokens come from another place (Liu et al. 2021)."""
    mask = torch.zeros(4, 4, device=scores.device)
    mask[:2, 2:] = -100.0
    mask[2:, :2] = -100.0
    return (scores + mask).softmax(-1)


def causal(scores):
    hidden = torch.ones(4, 4, dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(hidden, -1e9).softmax(-1)


@pytest.mark.parametrize("attend", [shifted, causal])
def test_a_mask_of_known_values_hides_keys_and_is_no_signal(attend):
    """The energy of the weights within 6 %."""
    graph = traced(lambda: Net(attend, nn.Linear(4, 4)), torch.randn(BATCH, 4, 4))
    found = output(graph, "softmax")
    real = attend(math.sqrt(1 / 3 + 1 / 12) * torch.randn(4000, 4, 4))  # as PyTorch's default law makes them
    assert math.exp(found.log_q) == pytest.approx(float(real.square().mean()), rel=0.06)


@pytest.mark.parametrize("features", [1, 6])
def test_a_softmax_over_the_positions_weighs_them_by_scores_of_their_own(features):
    """Attention pooling: the energy of the weights, how alike positions and samples are, and what flows back."""
    steps = 12

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.score, self.head = nn.Linear(32, features), nn.Linear(32, 5)
            nn.init.normal_(self.score.weight, 0.0, 2.0 / math.sqrt(32))

        def forward(self, x):
            return self.head((torch.softmax(self.score(x), dim=1).mean(2, keepdim=True) * x).sum(dim=1))

    graph = traced(Pooled, torch.randn(BATCH, steps, 32))
    found = output(graph, "softmax")
    torch.manual_seed(0)
    real = torch.softmax(2.0 * torch.randn(4000, steps, features, dtype=torch.float64), dim=1)
    square = float(real.square().mean())
    assert math.exp(found.log_q) == pytest.approx(square, rel=0.06)
    near = float((real.sum(1).square() - real.square().sum(1)).mean()) / (steps * (steps - 1)) / square
    assert found.s == pytest.approx(near, abs=0.02)
    assert found.c == pytest.approx(float(real[:2000].mean(1).mul(real[2000:].mean(1)).mean()) / square, abs=0.02)

    score = next(layer for layer in profile(graph, batch_size=BATCH).layers if layer.name == "score")
    norms = []
    for seed in range(6):
        torch.manual_seed(seed)
        net = Pooled()
        F.cross_entropy(net(torch.randn(BATCH, steps, 32)), torch.randint(0, 5, (BATCH,))).backward()
        norms.append(math.log10(net.score.weight.grad.norm()))
    assert score.weight_gradient is not None
    assert score.weight_gradient == pytest.approx(sum(norms) / len(norms), abs=0.2)


def test_one_of_queries_keys_and_values_keeps_how_alike_its_tokens_are():
    """Tokens that correlate by 0.8 do so in the queries of each head too."""

    def rest(h):
        q, k, _ = h.reshape(BATCH, 8, 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
        return q @ k.transpose(-2, -1)

    class Alike(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_qkv, self.own = nn.Linear(64, 192, bias=False), nn.Linear(64, 64, bias=False)

        def forward(self, x):
            shared = 2.0 * x[:, :1].expand(-1, 8, -1)
            return rest(self.to_qkv(shared + x))

    graph = traced(Alike, torch.randn(BATCH, 8, 64))
    walk = evaluate(graph, BATCH, grown=False)
    product = next(n for n in graph.nodes if n.kind == "matmul")
    query = walk.sites[product.inputs[0]].output
    stream = next(walk.sites[n.inputs[0]].output for n in graph.nodes if n.module == "to_qkv")
    within = (query.positions - 1) * query.s / (8 - 1)
    assert within == pytest.approx(stream.s, abs=0.01)
    assert stream.s > 0.7


class SpatialGate(nn.Module):
    """One gate a place for all channels, laid over them by hand (Park et al. 2018)."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(16, 64, 1), nn.Conv2d(16, 1, 1), nn.Linear(64, 8)

    def forward(self, x):
        h, gate = self.conv(x[:, :16]), self.gate(x[:, 16:])
        return self.head((h * torch.sigmoid(gate.expand_as(h))).mean((2, 3)))


def test_the_gradient_of_a_channel_that_is_laid_over_others_sums_theirs_up():
    """Within 0.1 decades; counted as one channel's it would be 0.9 less."""
    x = torch.randn(BATCH, 32, 10, 10)
    graph = traced(SpatialGate, x)
    gate = next(layer for layer in profile(graph, batch_size=BATCH).layers if layer.name == "gate")
    norms = []
    for seed in range(8):
        torch.manual_seed(seed)
        net = SpatialGate().double()
        labels = torch.randint(0, 8, (BATCH,))
        F.cross_entropy(net(torch.randn(x.shape, dtype=torch.float64)), labels).backward()
        norms.append(math.log10(float(net.gate.weight.grad.norm())))
    assert gate.weight_gradient == pytest.approx(sum(norms) / len(norms), abs=0.1)


class Drops(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.layer, self.way = nn.Linear(8, 8), way

    def forward(self, x):
        h, shape = self.layer(x), (x.shape[0], 1)
        if self.way == "torchvision":
            return x + h * torch.empty(shape, device=x.device).bernoulli_(0.75).div_(0.75)
        if self.way == "timm":
            return x + h * x.new_empty(shape).bernoulli_(0.75).div_(0.75)
        return x + h.div(0.75) * torch.floor(0.75 + torch.rand(shape, device=x.device))


@pytest.mark.parametrize("way", ["torchvision", "timm", "transformers"])
def test_stochastic_depth_is_dropout_of_whole_samples(way):
    graph = traced(lambda: Drops(way), torch.randn(BATCH, 8))
    (drop,) = [n for n in graph.nodes if n.kind == "dropout"]
    assert drop.op == "drop_path"
    assert drop.attributes["unit"] == "sample"
    assert drop.attributes["p"] == pytest.approx(0.25)
    assert not [n for n in graph.nodes if n.kind in ("scale", "mul")]
    assert profile(graph).confidence == "high"


def test_narrow_nets_are_predicted_at_the_typical_draw_not_at_the_mean():
    """Ten He layers of 24 units: the mean of log10 over draws lies well below the log of the mean."""

    def build():
        layers = [m for _ in range(10) for m in (nn.Linear(24, 24, bias=False), nn.ReLU())]
        for m in layers[::2]:
            nn.init.kaiming_normal_(m.weight)
        return nn.Sequential(*layers, nn.Linear(24, 10))

    found = profile(traced(build, torch.randn(1, 24)), batch_size=1).layers[9].activation_std
    squares = []
    for seed in range(200):
        torch.manual_seed(seed)
        net = build().double()
        squares.append(float(net[:19](torch.randn(1, 24, dtype=torch.float64)).square().mean()))
    alive = [q for q in squares if q > 0.0]
    typical = sum(0.5 * math.log10(q) for q in alive) / len(alive)
    mean = 0.5 * math.log10(sum(squares) / len(squares))
    assert typical < mean - 0.15
    assert found == pytest.approx(typical, abs=0.1)


def test_a_write_into_part_of_a_tensor_keeps_the_rest_and_is_no_unknown_operation():
    def rest(z):
        z = z.clone()
        z[:, :2].zero_()
        return z

    graph = traced(lambda: Net(rest, nn.Linear(8, 8)), torch.randn(BATCH, 8))
    assert profile(graph).unknown_ops == ()


def test_a_norm_along_the_tokens_divides_by_their_number():
    """`F.normalize(x, dim=1)` over 12 tokens: E x² is 1/12, whatever the features are."""
    graph = traced(lambda: Net(lambda z: F.normalize(z, dim=1), nn.Linear(8, 8)), torch.randn(BATCH, 12, 8))
    assert math.exp(output(graph, "normalize").log_q) == pytest.approx(1 / 12)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_alpha_dropout_puts_the_negative_end_of_selu_in_and_rescales(scale):
    """Energy, what two samples share, and the gradient, of signals that are standardised and of smaller ones."""

    def rest(h):
        return F.alpha_dropout(F.selu(h), 0.2, training=True)

    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(256, 256, bias=False), nn.Linear(256, 5)
            nn.init.normal_(self.layer.weight, 0.0, scale / 16.0)

        def forward(self, x):
            return self.head(rest(self.layer(x)))

    graph = traced(Made, torch.randn(BATCH, 256))
    found = output(graph, "alpha_dropout")
    torch.manual_seed(0)
    h = rest(scale * torch.randn(200_000, dtype=torch.float64))
    assert math.exp(found.log_q) == pytest.approx(float(h.square().mean()), rel=0.03)
    layer, _ = profile(graph, batch_size=BATCH).layers
    norms = []
    for seed in range(4):
        torch.manual_seed(seed)
        net = Made().train()
        F.cross_entropy(net(torch.randn(BATCH, 256)), torch.randint(0, 5, (BATCH,))).backward()
        norms.append(math.log10(net.layer.weight.grad.norm()))
    assert layer.weight_gradient == pytest.approx(sum(norms) / len(norms), abs=0.1)


def test_a_loop_that_keeps_its_last_state_alone_hands_on_one_position():
    """The head behind it sees as many rows as there are samples, and the loop all of its gradient at the last step."""

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.back, self.head = nn.Linear(12, 40), nn.Linear(40, 40), nn.Linear(40, 5)

        def forward(self, x):
            state = torch.zeros(x.shape[0], 40, device=x.device)
            for t in range(x.shape[1]):
                state = torch.tanh(self.read(x[:, t]) + self.back(state))
            return self.head(state)

    graph = traced(Loop, torch.randn(BATCH, 20, 12))
    (loop,) = [site for site in evaluate(graph, BATCH, grown=False).sites if site and site.node.kind == "recurrent"]
    assert loop.output.positions == 1.0
    norms = []
    for seed in range(4):
        torch.manual_seed(seed)
        net = Loop()
        F.cross_entropy(net(torch.randn(BATCH, 20, 12)), torch.randint(0, 5, (BATCH,))).backward()
        inside = net.read.weight.grad.square().sum() + net.back.weight.grad.square().sum()
        norms.append((0.5 * math.log10(inside), math.log10(net.head.weight.grad.norm())))
    layers = profile(graph, batch_size=BATCH).layers
    assert [layer.weight_gradient for layer in layers] == [
        pytest.approx(sum(seen) / len(seen), abs=0.15) for seen in zip(*norms, strict=True)
    ]


@pytest.mark.parametrize("scales", [(0.2, 0.2), (1.0, 1.0), (0.5, -0.7)])
def test_a_stream_that_rejoins_itself_adds_in_phase(scales):
    """Residual blocks in residual blocks: x + a·(x + b·F(x)) holds x 1 + a times, and not √(1 + a²) times."""
    outer, inner = scales

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(96, 96), nn.Linear(96, 96)

        def forward(self, x):
            y = x + inner * self.one(F.relu(x))
            y = y + inner * self.two(F.relu(y))
            return y * outer + x

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.blocks, self.head = (
                nn.Linear(96, 96),
                nn.Sequential(*(Block() for _ in range(12))),
                nn.Linear(96, 5),
            )

        def forward(self, x):
            return self.head(self.blocks(self.first(x)))

    graph = traced(Stack, torch.randn(BATCH, 96))
    layers = profile(graph, batch_size=BATCH).layers
    seen = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = Stack().double()
        F.cross_entropy(net(torch.randn(BATCH, 96, dtype=torch.float64)), torch.randint(0, 5, (BATCH,))).backward()
        seen.append([math.log10(dict(net.named_parameters())[f"{layer.name}.weight"].grad.norm()) for layer in layers])
    errors = [abs(layer.weight_gradient - sum(v) / 3) for layer, v in zip(layers, zip(*seen, strict=True), strict=True)]
    assert max(errors) < 0.25


@pytest.mark.parametrize(
    ("depth", "act", "confidence"), [(30, nn.GELU, "low"), (4, nn.GELU, "high"), (30, nn.ReLU, "high")]
)
def test_a_net_near_an_unstable_energy_is_of_low_confidence(depth, act, confidence):
    """GELU under He init: two draws differ by decades where it is deep; a rectifier hands on the scale as it is."""

    def made():
        net = nn.Sequential()
        for _ in range(depth):
            net.append(nn.Linear(64, 64)).append(act())
            nn.init.kaiming_normal_(net[-2].weight)
        return net.append(nn.Linear(64, 5))

    found = profile(traced(made, torch.randn(BATCH, 64)), batch_size=BATCH)
    assert found.confidence == confidence
    assert any("near a fold" in note for note in found.notes) == (confidence == "low")


def test_the_zeros_of_a_pad_stay_zeros_behind_a_layer_norm():
    """An image of 4 × 4 tokens in a window of 7 × 7: energy of what is read and the layer's gradient within 5 %."""

    class Window(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Linear(16, 64, bias=False), nn.LayerNorm(64)
            self.layer, self.head = nn.Linear(64, 64, bias=False), nn.Linear(64, 10)

        def forward(self, x):
            h = self.stem(x)
            h = self.layer(self.norm(F.pad(h, (0, 0, 0, 3, 0, 3)).flatten(1, 2)))
            return self.head(h.tanh())

    graph = traced(Window, torch.randn(BATCH, 4, 4, 16))
    assert math.exp(output(graph, "layer_norm").log_q) == pytest.approx(16 / 49, rel=0.01)
    norms = []
    for seed in range(4):
        torch.manual_seed(seed)
        net = Window()
        F.cross_entropy(net(torch.randn(BATCH, 4, 4, 16)).flatten(0, 1), torch.randint(0, 10, (49 * BATCH,))).backward()
        norms.append(math.log10(net.layer.weight.grad.norm()))
    layer = next(x for x in profile(graph, batch_size=BATCH).layers if x.name == "layer")
    assert layer.weight_gradient == pytest.approx(sum(norms) / len(norms), abs=0.05)
