"""The probe on a CUDA device: the same numbers as on the CPU, autocast, and models that do not fit."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.graph.build import BuiltModel  # noqa: E402
from gradlint.graph.trace import trace_model  # noqa: E402
from gradlint.probe import run as running  # noqa: E402
from gradlint.probe.experiment import Experiment  # noqa: E402
from gradlint.probe.live import trace_call  # noqa: E402
from gradlint.probe.measure import measure  # noqa: E402
from gradlint.worker.client import WorkerPool  # noqa: E402
from gradlint.worker.protocol import InputHint, ModelJob, ProbeJob, Slice  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(),
        nn.Flatten(), nn.Linear(8 * 64, 32), nn.GELU(), nn.Linear(32, 10),
    )  # fmt: skip


def built(make=net, sample=(3, 8, 8)):
    def rebuild(seed):
        torch.manual_seed(seed)
        return make()

    model = BuiltModel(rebuild(0).to("meta"), "net", rebuild=rebuild)
    return trace_model(model, InputHint(sample=sample)), model


def job(**more):
    return ProbeJob((Experiment("baseline"),), seeds=1, device=more.pop("device", "cuda"), batch_size=16, **more)


def numbers(found):
    baseline = found.of["baseline"]
    assert baseline.error is None
    return baseline, {n: x for n, x in baseline.layers.items() if x.gradient is not None}


def test_the_device_sees_what_the_cpu_sees():
    traced, model = built()
    on_cpu, there = numbers(running.run(job(device="cpu"), traced, model))
    on_cuda, here = numbers(running.run(job(), traced, model))
    assert (on_cpu.device, on_cuda.device) == ("cpu", "cuda")
    assert on_cuda.loss == pytest.approx(on_cpu.loss, rel=1e-2)
    assert here.keys() == there.keys()
    for name, layer in here.items():
        assert layer.gradient == pytest.approx(there[name].gradient, rel=0.02)
        assert layer.activation_std == pytest.approx(there[name].activation_std, rel=0.02)
        assert layer.dead == pytest.approx(there[name].dead, abs=0.13)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_autocast_of_the_script_is_used(dtype):
    traced, model = built()
    plain, exact = numbers(running.run(job(), traced, model))
    cast, rough = numbers(running.run(job(autocast=dtype), traced, model))
    assert not any("does not run" in note for note in cast.notes)
    assert cast.loss == pytest.approx(plain.loss, rel=0.05) and cast.loss != plain.loss
    assert rough["6"].weight_gradient == pytest.approx(exact["6"].weight_gradient, rel=0.1)


def test_half_precision_underflow_is_seen():
    def deep():
        return nn.Sequential(*[m for _ in range(14) for m in (nn.Linear(16, 16), nn.Sigmoid())], nn.Linear(16, 4))

    traced, model = built(deep, (16,))
    _, exact = numbers(running.run(job(), traced, model))
    _, half = numbers(running.run(job(autocast="float16"), traced, model))
    assert exact["0"].gradient > 0
    assert half["0"].gradient < 0.1 * exact["0"].gradient


def test_a_batch_that_does_not_fit_is_made_smaller_then_moved_to_the_cpu(monkeypatch):
    traced, model = built()
    original, sizes = running._run_on, []

    def short_of_memory(device, batch_size, *rest):
        sizes.append((device.type, batch_size))
        if device.type == "cuda":
            torch.empty(1 << 60, dtype=torch.uint8, device=device)
        return original(device, batch_size, *rest)

    monkeypatch.setattr(running, "_run_on", short_of_memory)
    baseline, _ = numbers(running.run(job(), traced, model))
    assert sizes == [("cuda", 16), ("cuda", 8), ("cuda", 4), ("cuda", 2), ("cpu", 16)]
    assert baseline.device == "cpu" and any("does not fit cuda" in note for note in baseline.notes)


def test_a_pass_leaves_parameters_and_random_numbers_alone():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)).cuda()
    x, y = torch.randn(32, 64, device="cuda"), torch.randint(0, 4, (32,), device="cuda")
    graph = trace_call(module, (x,), {})
    state = {k: v.clone() for k, v in module.state_dict().items()}
    random = torch.cuda.get_rng_state()
    measure(module, (x,), {}, lambda out: nn.functional.cross_entropy(out, y), graph)
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert all(p.grad is None for p in module.parameters())


def test_a_pass_waits_for_the_device_a_few_times_only():
    torch.manual_seed(0)
    depth = 40
    module = nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(64, 64), nn.ReLU())]).cuda()
    x = torch.randn(32, 64, device="cuda")
    graph = trace_call(module, (x,), {})
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        measure(module, (x,), {}, lambda out: out.square().mean(), graph, budget=1 << 16)
    copies = sum(
        e.count
        for e in seen.key_averages()
        if e.key in ("aten::_local_scalar_dense", "Memcpy DtoH (Device -> Pageable)")
    )
    assert copies < depth


def test_a_model_that_breaks_the_device_is_measured_on_the_cpu(tmp_path):
    text = """
import torch
from torch import nn

class Beyond(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.fc = nn.Embedding(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.table((x[:, 0] * 0).long() + (9 if x.is_cuda else 1)))

net = Beyond()
"""
    model = Slice(path=str(tmp_path / "a.py"), root=str(tmp_path), text=text, target="net")
    with WorkerPool() as pool, pool.open(ModelJob(model, InputHint(sample=(16,)), device="cuda")) as session:
        answer = session.probe(job())
    baseline = answer.measurements.baseline
    assert baseline.device == "cpu" and baseline.loss > 0
    assert any("cuda failed" in note and note.endswith("measured on the CPU") for note in baseline.notes)
