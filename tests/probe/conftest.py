"""Small models, built and traced as a worker's child does it."""

import pytest

torch = pytest.importorskip("torch")

from gradlint.graph.build import BuiltModel  # noqa: E402
from gradlint.graph.trace import trace_model  # noqa: E402
from gradlint.worker.protocol import InputHint, ProbeJob  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def probed():
    """Run experiments on a model class: `probed(make, sample, *experiments, **job)`."""
    from gradlint.probe.run import run

    def measure(make, sample, *experiments, seeds=2, **job):
        def rebuild(seed):
            torch.manual_seed(seed)
            return make()

        built = BuiltModel(rebuild(0).to("meta"), "net", rebuild=rebuild)
        traced = trace_model(built, InputHint(sample=sample))
        found = run(ProbeJob(tuple(experiments), seeds=seeds, device="cpu", batch_size=8, **job), traced, built)
        return found, traced.graph

    return measure
