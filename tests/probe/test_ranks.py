"""Several processes that each see a part of one batch report what one process with the whole batch would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from gradlint.probe.merging import merged_dead, merged_loss, merged_moments  # noqa: E402
from gradlint.probe.statistics import Ledger  # noqa: E402
from tests.probe.ranks_program import numbers  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs the gloo backend"),
]

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks says in each case."""
    folder = tmp_path_factory.mktemp("ranks")
    program = [sys.executable, str(HERE / "ranks_program.py")]
    started = [
        subprocess.Popen([*program, str(rank), "2", str(folder)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", ["plain", "ddp", "fsdp"])
def test_uneven_parts_give_the_numbers_of_the_whole(ranks, case):
    if case not in ranks[0]:
        pytest.skip("this torch has no fully_shard")
    whole = numbers("plain", 0, 1)
    whole.pop("own")
    for rank in (0, 1):
        seen = dict(ranks[rank][case])
        seen.pop("own")
        assert seen == pytest.approx(whole, rel=1e-5)


def test_an_engine_goes_on_training_as_before(ranks):
    for rank in (0, 1):
        assert ranks[rank].get("fsdp", ranks[rank]["ddp"])["own"] == pytest.approx(ranks[rank]["plain"]["own"])


def test_what_one_rank_cannot_do_is_said_on_all(ranks):
    assert "shapes cannot be multiplied" in ranks[1]["broken"]["error"]
    assert ranks[0]["broken"]["error"].startswith("rank 1: RuntimeError: mat1 and mat2")


def test_only_the_first_rank_of_a_launch_reports(tmp_path):
    (tmp_path / "train.py").write_text(
        "import sys, torch\nfrom torch import nn\ntorch.distributed.init_process_group('gloo')\n"
        "rank = torch.distributed.get_rank()\n"
        "net = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))\n"
        "optimizer = torch.optim.SGD(net.parameters(), lr=float(sys.argv[1]))\n"
        "for step in range(50):\n    optimizer.zero_grad()\n"
        "    net(torch.full((4 + 4 * rank, 4), 1.0 + rank)).square().mean().backward()\n    optimizer.step()\n"
        "raise SystemExit('went on')\n"
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["-m", "gradlint", "probe", "train.py", "--steps", "2", "--output-format", "json", "--exit-zero"]
    done = subprocess.run(
        [sys.executable, *launch, *options, "--", "0.1"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert "measured by 2 ranks, 12 samples in all" in model["notes"]
    # Inputs of 1 for four samples and of 2 for eight.
    assert model["layers"][0]["measured"]["activation_std"] > 0 and len(model["losses"]) == 2


def moments(x):
    ledger = Ledger()
    ledger.moments("x", x)
    ledger.moments("∂ x", x)
    return ledger.read().moments


def test_moments_of_parts_are_those_of_the_whole():
    torch.manual_seed(0)
    x = torch.randn(12, 50) + 3 * torch.randn(1, 50)
    parts = [moments(x[:8]), moments(x[8:])]
    merged, whole = merged_moments(parts, "∂ "), moments(x)
    assert merged["x"].std == pytest.approx(whole["x"].std) and merged["x"].mean == pytest.approx(whole["x"].mean)
    # Pairs within a part stand for all pairs.
    assert merged["x"].distinct == pytest.approx(whole["x"].distinct, rel=0.2)
    assert merged["∂ x"].norm == pytest.approx(whole["∂ x"].norm / 2)


def test_samples_that_stand_alone_have_no_neighbour_to_differ_from():
    x = torch.randn(2, 50)
    assert merged_moments([moments(x[:1]), moments(x[1:])], "∂ ")["x"].distinct is None


def test_a_unit_is_dead_that_no_part_wakes():
    assert merged_dead([{"a": "110"}, {"a": "101"}]) == {"a": pytest.approx(1 / 3)}
    assert merged_loss([1.0, 4.0], [8, 4]) == pytest.approx(2.0)
