"""The process boundary: sessions, interpreters with torch alone, and answers when things are missing."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gradlint.probe.experiment import Experiment
from gradlint.worker import wire
from gradlint.worker.client import WorkerPool, find_torch
from gradlint.worker.protocol import Built, Failed, InputHint, Limits, ModelJob, Probed, ProbeJob, Slice, SliceStep

needs_torch = pytest.mark.skipif(find_torch() is None, reason="needs torch")
TEXT = "from torch import nn\nnet = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))\n"


def job(tmp_path: Path, text: str = TEXT) -> ModelJob:
    return ModelJob(Slice(path=str(tmp_path / "a.py"), root=str(tmp_path), text=text, target="net"), limits=Limits(30))


def test_jobs_survive_the_wire() -> None:
    import json

    step = SliceStep("run", 3, 4, keep=((1, 2),))
    sent = ModelJob(Slice("a.py", "/", "x = 'é'\n", "net", keep=((1, 3),), steps=(step,)))
    assert wire.decode(ModelJob, json.loads(wire.encode(sent))) == sent


@pytest.mark.torch
@needs_torch
@pytest.mark.parametrize("fork", [True, False])
def test_a_session_yields_the_graph_with_laws(tmp_path: Path, fork: bool) -> None:
    if fork and sys.platform == "win32":
        pytest.skip("no fork")
    with WorkerPool(fork=fork) as pool, pool.open(job(tmp_path)) as session:
        built = session.built
    assert isinstance(built, Built), built
    assert [n.kind for n in built.graph.nodes if n.kind in ("linear", "activation")] == [
        "linear",
        "activation",
        "linear",
    ]
    weight = built.graph.parameter["0.weight"]
    assert weight.law is not None and weight.law.gain_squared == pytest.approx(1 / 3)


@pytest.mark.torch
@needs_torch
def test_the_worker_needs_the_standard_library_and_torch_alone(tmp_path: Path) -> None:
    blocker = tmp_path / "python"
    blocked = ["msgspec", "click", "rich", "libcst", "pathspec"]
    blocker.write_text(
        f"#!{sys.executable}\nimport sys, runpy\n"
        f"class Blocked:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {blocked}: raise ImportError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, Blocked())\nsys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    blocker.chmod(0o755)
    with WorkerPool(python=str(blocker)) as pool, pool.open(job(tmp_path)) as session:
        assert isinstance(session.built, Built), session.built


def test_an_interpreter_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert find_torch(str(tmp_path / "nowhere")) is None
    with WorkerPool(python=str(tmp_path / "nowhere")) as pool, pool.open(job(tmp_path)) as session:
        failed = session.built
    assert isinstance(failed, Failed)
    assert "cannot be started" in failed.reason


@pytest.mark.torch
@needs_torch
def test_an_error_of_the_users_code_names_its_line(tmp_path: Path) -> None:
    with WorkerPool() as pool, pool.open(job(tmp_path, "from torch import nn\nnet = nn.Linear('a', 2)\n")) as session:
        failed = session.built
    assert isinstance(failed, Failed)
    assert (failed.stage, failed.location and failed.location.line, failed.traceback) == ("build", 2, None)


@pytest.mark.torch
@needs_torch
def test_a_spawned_job_is_ended_at_its_memory_limit(tmp_path: Path) -> None:
    text = "kept = []\nwhile True:\n    kept.append(bytearray(1 << 24))\n"
    sliced = Slice(path=str(tmp_path / "a.py"), root=str(tmp_path), text=text, target="kept")
    with (
        WorkerPool(fork=False) as pool,
        pool.open(ModelJob(sliced, limits=Limits(seconds=30, memory=1 << 30))) as session,
    ):
        failed = session.built
    assert isinstance(failed, Failed)
    assert failed.stage == "limit" and "memory" in failed.reason


BREAKING = """
from torch import nn

class Breaking(nn.Linear):
    def forward(self, x):
        if len(x) == 7 and x.is_meta:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super().forward(x)

net = Breaking(4, 3)
"""


@pytest.mark.torch
@needs_torch
def test_a_model_that_breaks_the_device_is_measured_on_the_cpu_in_a_fresh_process(tmp_path: Path) -> None:
    hinted = replace(job(tmp_path, BREAKING), hint=InputHint(sample=(4,)))
    # "meta" stands for the device: its kernels do not run.
    ask = ProbeJob((Experiment("baseline"),), seeds=1, device="meta", batch_size=7)
    with WorkerPool() as pool, pool.open(hinted) as session:
        seen = [session.probe(ask), session.probe(ask)]
    for answer in seen:
        assert isinstance(answer, Probed), answer
        baseline = answer.measurements.baseline
        assert baseline is not None and baseline.device == "cpu" and baseline.loss
        assert baseline.notes[-1] == "meta failed (CUDA error: device-side assert triggered), measured on the CPU"
