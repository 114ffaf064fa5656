"""Weights that are not plain parameters: lazy, parametrised, functional, and inside custom autograd functions."""

import copy
from inspect import getsource

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from gradlint.graph.build import build  # noqa: E402
from gradlint.graph.trace import trace_model, trace_module  # noqa: E402
from gradlint.graph.trace_parametrized import computed_weights, effective_laws  # noqa: E402
from gradlint.worker.protocol import InputHint, Slice  # noqa: E402


def built(tmp_path, body, forward):
    lines = [
        "import torch",
        "import torch.nn.functional as F",
        "from torch import nn",
        "class Net(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        *(f"        {line}" for line in body),
        "    def forward(self, x):",
        f"        return {forward}",
    ]
    path = tmp_path / "net.py"
    path.write_text("\n".join(lines))
    return build(Slice(str(path), str(tmp_path), path.read_text(), "Net()", keep=((1, len(lines)),)))


# ---- lazy ------------------------------------------------------------------------------------------------------


def test_lazy_layers_have_their_sizes_and_laws(tmp_path):
    model = built(
        tmp_path, ["self.conv, self.fc = nn.LazyConv2d(8, 3), nn.LazyLinear(10)"], "self.fc(self.conv(x).flatten(1))"
    )
    traced = trace_model(model, InputHint(sample=(3, 8, 8)))
    conv, fc = traced.graph.of_kind("conv", "linear")
    assert (conv.attributes["in_channels"], fc.attributes["in_features"]) == (3, 8 * 6 * 6)
    law = traced.graph.weight_law(fc)
    assert (law.distribution, law.fan_in) == ("uniform", 288)
    assert law.std == pytest.approx((1 / 3 / 288) ** 0.5)


def test_a_lazy_model_is_rebuilt_with_its_sizes(tmp_path):
    model = built(tmp_path, ["self.fc = nn.LazyLinear(10)"], "self.fc(x)")
    trace_model(model, InputHint(spec="4x6"))
    first, again, other = model.factory(1), model.factory(1), model.factory(2)
    assert first.fc.weight.shape == (10, 6)
    assert torch.equal(first.fc.weight, again.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_a_failed_guess_does_not_fix_the_sizes_of_lazy_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.LazyLinear(4), nn.Linear(5, 2)

        def forward(self, x):
            if x.shape[-1] != 5:
                raise RuntimeError(f"cannot be multiplied (2x{x.shape[-1]} and 5x4)")
            self.first(x)
            return self.second(x)

    net = Net()
    assert trace_module(net).graph.input == "2x5"
    assert isinstance(net.first, nn.LazyLinear)


# ---- parametrised ----------------------------------------------------------------------------------------------

PARAMETRISED = {
    "spectral norm": "nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))",
    "spectral norm by hook": "nn.utils.spectral_norm(nn.Linear(64, 64))",
    "weight norm": "nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))",
    "orthogonal": "nn.utils.parametrizations.orthogonal(nn.Linear(64, 64))",
}


@pytest.mark.parametrize("name", PARAMETRISED)
def test_the_law_of_a_parametrised_weight_is_that_of_the_weight(tmp_path, name):
    model = built(tmp_path, [f"self.fc = {PARAMETRISED[name]}"], "self.fc(x)")
    graph = trace_model(model).graph
    (fc,) = graph.of_kind("linear")
    real = model.factory(5)
    real(torch.randn(2, 64))
    assert graph.weight_law(fc).std == pytest.approx(float(real.fc.weight.std()), rel=0.1)


def test_of_plain_layers_nothing_is_computed():
    assert list(computed_weights(nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)))) == []
    assert effective_laws(nn.Linear(2, 2), {}, lambda seed: nn.Linear(2, 2)) == {}


def test_a_parameter_that_is_called_weight_v_is_no_weight_norm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight_v = nn.Parameter(torch.zeros(3))

    assert list(computed_weights(Net())) == []


# ---- functional ------------------------------------------------------------------------------------------------


def test_functional_attention_names_its_projections():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.mha = nn.MultiheadAttention(16, 4)

        def forward(self, x):
            m = self.mha
            return F.multi_head_attention_forward(
                x, x, x, 16, 4, m.in_proj_weight, m.in_proj_bias, None, None, False, 0.0, m.out_proj.weight,
                m.out_proj.bias,
            )[0]  # fmt: skip

    graph = trace_module(Net(), args=(torch.zeros(5, 2, 16),)).graph
    (attention,) = graph.of_kind("attention")
    assert attention.parameters == {
        "in_proj": "mha.in_proj_weight",
        "in_proj_bias": "mha.in_proj_bias",
        "out_proj": "mha.out_proj.weight",
        "out_proj_bias": "mha.out_proj.bias",
    }
    assert (attention.attributes["num_heads"], attention.attributes["head_dim"]) == (4, 4)


# ---- custom autograd functions ---------------------------------------------------------------------------------


class Swish(torch.autograd.Function):
    """Differentiates as autograd would."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * (s + x * s * (1 - s))


class NewStyle(torch.autograd.Function):
    """The same with a context set up apart."""

    @staticmethod
    def forward(x):
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class Straight(torch.autograd.Function):
    """Passes the gradient of a step straight through."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class Reversal(torch.autograd.Function):
    """Turns the gradient round (Ganin et al. 2016)."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -ctx.weight * g, None


class Applied(nn.Module):
    def __init__(self, function, *rest):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.function, self.rest = function, rest

    def forward(self, x):
        h = self.function.apply(self.a(x), *self.rest)
        return self.b(self.function.apply(h, *self.rest))


@pytest.mark.parametrize(("function", "op"), [(Swish, "silu"), (NewStyle, "tanh")])
def test_a_custom_function_with_the_derivative_of_its_forward_is_its_forward(function, op):
    net = Applied(function)
    traced = trace_module(net)
    assert [n.op for n in traced.graph.nodes] == ["input", "linear", op, op, "linear", "output"]
    assert [n.name for n in trace_module(net).graph.nodes] == [n.name for n in traced.graph.nodes]


@pytest.mark.parametrize(("function", "rest"), [(Straight, ()), (Reversal, (0.5,))])
def test_a_custom_function_with_a_gradient_of_its_own_is_unknown(function, rest):
    graph = trace_module(Applied(function, *rest)).graph
    assert [n.op for n in graph.of_kind("unknown")] == [function.__name__] * 2


KEPT = (
    "\n".join(["import torch", "from torch import nn", getsource(Swish), getsource(Straight)])
    + """
swish = Swish.apply

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.sign = Straight.apply

    def forward(self, x):
        return self.b(self.sign(swish(self.a(x))))

net = Net()
"""
)


def test_a_custom_function_is_seen_whose_apply_is_kept_by_another_name():
    apply = torch.autograd.Function.apply
    built = build(Slice(path="/project/train.py", root="/project", text=KEPT, target="net"))
    assert torch.autograd.Function.apply == apply
    graph = trace_model(built, InputHint(sample=(4,))).graph
    assert [n.op for n in graph.nodes] == ["input", "linear", "silu", "Straight", "linear", "output"]


def test_trying_a_custom_function_leaves_the_random_state():
    net = Applied(Swish)
    state = torch.get_rng_state()
    trace_module(net)
    assert torch.equal(torch.get_rng_state(), state)


# ---- what the inputs are like ----------------------------------------------------------------------------------


def test_images_between_zero_and_one_are_said_and_drawn():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    traced = trace_module(net, hint=InputHint(sample=(1, 28, 28), law="uniform01"))
    (image,) = traced.graph.of_kind("input")
    (drawn,), _ = traced.inputs(batch_size=8)
    assert image.attributes["law"] == "uniform01"
    assert float(drawn.min()) >= 0.0 and float(drawn.max()) <= 1.0 and 0.4 < float(drawn.mean()) < 0.6


def test_a_flattened_sample_is_drawn_as_the_image():
    net = nn.Sequential(nn.Linear(784, 10))
    traced = trace_module(net, hint=InputHint(sample=(1, 28, 28), law="uniform01"))
    assert next(traced.graph.of_kind("input")).attributes["law"] == "uniform01"


def test_what_is_no_image_stays_normal():
    net = nn.LSTM(12, 8, batch_first=True)
    traced = trace_module(net, hint=InputHint(law="uniform01"))
    assert next(traced.graph.of_kind("input")).attributes["law"] == "normal"


def test_a_classifier_of_a_thousand_classes_sees_images_of_224_pixels():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000))
    assert trace_module(net).graph.input == "2x3x224x224"


def test_a_policy_that_returns_a_distribution_ends_in_its_mean():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
            self.log_std = nn.Parameter(torch.full((2,), -0.5))

        def forward(self, x):
            return torch.distributions.Normal(self.net(x), self.log_std.exp())

    policy = Policy()
    before = copy.deepcopy(policy.state_dict())
    graph = trace_module(policy).graph
    mean, _ = graph.nodes[-1].inputs
    assert graph.nodes[graph.nodes[mean].inputs[0]].name == "net.2"
    assert not list(graph.of_kind("unknown"))
    assert all(torch.equal(before[k], v) for k, v in policy.state_dict().items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="tensors do move where there is a GPU")
def test_a_move_to_a_gpu_that_is_not_there_is_left_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x.cuda()) + torch.zeros(x.size(0), 4).cuda()

    assert [n.name for n in trace_module(Net()).graph.of_kind("linear")] == ["fc"]
