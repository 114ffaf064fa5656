"""Experiments on whole models: what is measured, and that each what-if changes what it says."""

import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.graph.model import Loss  # noqa: E402
from gradlint.probe.experiment import OVERFLOW, Experiment  # noqa: E402
from gradlint.probe.judging import gradient_ratio  # noqa: E402

pytestmark = pytest.mark.torch

CROSS_ENTROPY = Loss("cross_entropy")


def stack(depth, act, norm=None, width=64):
    layers = []
    for _ in range(depth):
        layers.append(nn.Linear(width, width))
        if norm is not None:
            layers.append(norm(width))
        layers.append(act())
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Residual(nn.Module):
    """Adds in place, shares one activation, and returns more than one thing."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)
        self.stem.requires_grad_(False)

    def forward(self, x):
        x = self.stem(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            branch = norm(conv(x))
            branch += x
            x = self.relu(branch)
        return {"logits": self.head(x.mean((2, 3))), "features": x}


def test_sigmoid_stack_vanishes_at_the_rate_theory_says(probed):
    seen, _ = probed(lambda: stack(8, nn.Sigmoid), (64,), Experiment("baseline"), loss=CROSS_ENTROPY)
    ratio = gradient_ratio(seen.baseline, "0", "14")
    # Default init, ×0.141 a layer (Var w = 1/(3n), E[φ'²] at the fixed point).
    assert math.log10(ratio.median) == pytest.approx(7 * math.log10(0.141), abs=0.5)
    assert len(ratio.values) == seen.baseline.seeds == 2
    layer = seen.baseline.layers["0"]
    assert layer.saturated == 0.0 and layer.weight_gradient > 0 and layer.distinct > 0.5


def test_what_ifs_lift_the_gradient_and_leave_the_model_alone(probed):
    experiments = [
        Experiment("baseline"),
        Experiment("swap_activation", label="ReLU", to="relu"),
        Experiment("insert_norm", label="BatchNorm", norm="batch"),
        Experiment("reinit", label="Xavier", law="xavier"),
        Experiment("add_skips", label="skips"),
        Experiment("baseline", label="again"),
    ]
    seen, _ = probed(lambda: stack(8, nn.Sigmoid), (64,), *experiments, loss=CROSS_ENTROPY)
    ratio = {key: gradient_ratio(m, "0", "14").median for key, m in seen.of.items()}
    assert ratio["ReLU"] > 0.1
    assert ratio["BatchNorm"] > 100 * ratio["baseline"]
    assert ratio["Xavier"] > 10 * ratio["baseline"]
    assert ratio["skips"] > 100 * ratio["baseline"]
    assert ratio["again"] == ratio["baseline"]


def test_named_nodes_alone_are_changed(probed):
    one = Experiment("reinit", label="one", law="kaiming", nodes=("2",))
    seen, _ = probed(lambda: stack(3, nn.ReLU), (64,), Experiment("baseline"), one)
    norms = {key: {n: m.layers[n].weight_norm for n in ("0", "2", "4", "6")} for key, m in seen.of.items()}
    # He's variance is 6 times the default's 1/(3n).
    assert norms["one"].pop("2") == pytest.approx(6**0.5 * norms["baseline"].pop("2"), rel=0.05)
    assert norms["one"] == norms["baseline"]


def test_in_place_residuals_shared_modules_frozen_parts_and_dicts(probed):
    seen, graph = probed(Residual, (3, 12, 12), Experiment("baseline"), loss=CROSS_ENTROPY)
    layers = seen.baseline.layers
    assert layers["stem"].weight_gradient is None and layers["stem"].weight_norm > 0
    assert layers["convs.0"].weight_gradient > 0 and layers["convs.0"].dead == 0.0
    assert {n.name for n in graph.nodes if n.op == "relu"} == {"relu", "relu#2", "relu#3"} <= set(layers)
    # Nothing before the frozen stem is trained, so no gradient goes there.
    assert layers["convs.0"].gradient > 0 and "stem" not in seen.baseline.per_seed


def test_dead_units_of_a_layer_are_counted(probed):
    def make():
        net = stack(2, nn.ReLU)
        with torch.no_grad():
            net[0].bias[:16] = -100.0
        return net

    seen, _ = probed(make, (64,), Experiment("baseline"), seeds=1)
    assert seen.baseline.layers["0"].dead >= 0.25


def test_steps_follow_the_rate_that_is_asked_for(probed):
    experiments = [
        Experiment("step", label="slow", learning_rate=1e-3),
        Experiment("step", label="fast", learning_rate=1e4),
        Experiment("clip", label="clipped", learning_rate=1e-3, max_norm=1e-9),
    ]
    seen, _ = probed(lambda: stack(2, nn.ReLU), (64,), *experiments, optimizer="SGD", loss=CROSS_ENTROPY)
    slow, fast, clipped = (seen.get(k).losses for k in ("slow", "fast", "clipped"))
    assert len(slow) == 11 and slow[-1] < slow[0]
    assert fast[-1] > 1.5 * fast[0]
    assert clipped[-1] == pytest.approx(clipped[0], rel=1e-5)
    assert len(seen.get("slow").gradient_norms) == 10


def test_momentum_keeps_the_curve_of_plain_sgd_beside_its_own(probed):
    seen, _ = probed(
        lambda: stack(2, nn.ReLU), (64,), Experiment("step"), optimizer="SGD", learning_rate=0.01, momentum=0.9
    )
    step = seen.get("step")
    assert len(step.losses) == len(step.plain_losses) == 11
    assert step.losses[0] == step.plain_losses[0] and step.losses[1] > step.plain_losses[1]


def test_a_failing_experiment_is_one_line_beside_the_others(probed):
    seen, _ = probed(lambda: stack(2, nn.ReLU), (64,), Experiment("baseline"), Experiment("unroll"))
    assert seen.baseline is not None
    assert seen.get("unroll") is None
    assert "unroll" in seen.of["unroll"].error and "\n" not in seen.of["unroll"].error


def test_the_first_operation_that_is_not_finite_is_named(probed):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.second(torch.log(self.first(x) * 0))

    seen, graph = probed(Broken, (4,), Experiment("baseline"))
    assert seen.baseline.first_nonfinite == next(n.name for n in graph.nodes if n.op == "log")
    assert seen.baseline.loss == OVERFLOW


def test_a_model_that_cannot_be_built_is_an_error_for_each_experiment():
    from gradlint.graph.build import BuiltModel
    from gradlint.graph.trace import trace_model
    from gradlint.probe.run import run
    from gradlint.worker.protocol import InputHint, ProbeJob

    built = BuiltModel(nn.Linear(4, 2).to("meta"), "net")
    traced = trace_model(built, InputHint(sample=(4,)))
    seen = run(ProbeJob((Experiment("baseline"),), device="cpu"), traced, built)
    assert seen.baseline is None and "built" in seen.of["baseline"].error


def test_a_broken_device_ends_the_run():
    from gradlint.graph.build import BuiltModel
    from gradlint.graph.trace import trace_model
    from gradlint.probe.run import LostDeviceError, run
    from gradlint.worker.protocol import InputHint, ProbeJob

    class Breaking(nn.Linear):
        def forward(self, x):
            if len(x) == 7:
                raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be")
            return super().forward(x)

    built = BuiltModel(Breaking(4, 2).to("meta"), "net", rebuild=lambda seed: Breaking(4, 2))
    traced = trace_model(built, InputHint(sample=(4,)))
    # "meta" stands for the device: its kernels do not run.
    for autocast in (None, "float16"):
        job = ProbeJob((Experiment("baseline"),), device="meta", batch_size=7, autocast=autocast)
        with pytest.raises(LostDeviceError, match=r"^meta failed \(CUDA error: device-side assert triggered\)$"):
            run(job, traced, built)


def test_lstm_unrolls_and_remembers_with_a_forget_bias(probed):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.head = (
                nn.Embedding(20, 16),
                nn.LSTM(16, 16, batch_first=True),
                nn.Linear(16, 20),
            )

        def forward(self, ids):
            return self.head(self.lstm(self.embed(ids))[0])

    seen, _ = probed(
        Model,
        (12,),
        Experiment("baseline"),
        Experiment("unroll", nodes=("lstm",), steps=30),
        Experiment("unroll", label="forget bias", nodes=("lstm",), steps=30, law="lstm_forget_bias"),
        Experiment("unroll", label="doubled", nodes=("lstm",), steps=30, weight_factor=2.0),
    )
    plain, biased, doubled = (seen.of[k] for k in ("unroll", "forget bias", "doubled"))
    assert [m.error for m in (plain, biased, doubled)] == [None] * 3
    assert len(plain.hidden_state_gradients) == 30
    assert biased.hidden_state_gradients[0] > 10 * plain.hidden_state_gradients[0]
    assert doubled.spectral_norm == pytest.approx(2 * plain.spectral_norm, rel=1e-5)
    assert seen.baseline.layers["lstm"].weight_gradient > 0


def test_autocast_measures_close_to_float32(probed):
    plain, _ = probed(lambda: stack(3, nn.ReLU), (64,), Experiment("baseline"), seeds=1)
    cast, _ = probed(lambda: stack(3, nn.ReLU), (64,), Experiment("baseline"), seeds=1, autocast="bfloat16")
    assert cast.baseline.layers["0"].gradient == pytest.approx(plain.baseline.layers["0"].gradient, rel=0.1)
    assert cast.baseline.layers["0"].gradient != plain.baseline.layers["0"].gradient


def test_single_passes_are_measured_under_the_averaged_loss(probed):
    def norm(reduction):
        found, _ = probed(lambda: nn.Linear(4, 4), (4,), Experiment("baseline"), seeds=1, loss=Loss("mse", reduction))
        return found.baseline.gradient_norms[0]

    assert norm("sum") == pytest.approx(norm("mean"), rel=1e-4)
