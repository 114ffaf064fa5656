"""One rank of a distributed program, which measures its part of a batch: `ranks_program.py RANK COUNT FOLDER`."""

import importlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from gradlint.api import probe
from gradlint.probe.ranks import RankError

CASES = ("plain", "ddp", "fsdp", "broken")
PARTS = {1: ((0, 12),), 2: ((0, 8), (8, 12))}
"""Rows of the batch for each rank: uneven."""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.LayerNorm(16)) for _ in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = torch.tanh(block(x) - 0.2)
        return self.head(x)


def wrapped(net, case):
    if case == "ddp":
        return nn.parallel.DistributedDataParallel(net)
    if case == "fsdp":
        from torch.distributed.fsdp import fully_shard

        # Where a machine has a GPU the default mesh would move the model there.
        mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
        for part in (*net.blocks, net):
            fully_shard(part, mesh=mesh)
    return net


def numbers(case, rank, count):
    """What the probe says of this rank's rows, and the loss on them afterwards."""
    torch.manual_seed(0)
    net = wrapped(Net(), case)
    torch.manual_seed(1)
    rows = slice(*PARTS[count][rank])
    x, y = torch.randn(12, 6)[rows], torch.randint(0, 4, (12,))[rows]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    before = [local(p).clone() for p in net.parameters()]
    loss = nn.functional.cross_entropy
    try:
        report = probe(net, (x[:, :3] if case == "broken" and rank == 1 else x, y), loss, optimizer)
    except (RankError, RuntimeError) as error:
        return {"error": str(error)}
    assert all(torch.equal(a, local(b)) and b.grad is None for a, b in zip(before, net.parameters(), strict=True))
    fields = ("activation_mean", "activation_std", "gradient", "weight_gradient", "weight_norm", "update_ratio", "dead")
    seen = report.measurement
    layers = {f"{n} {f}": v for n, m in seen.layers.items() for f in fields if (v := getattr(m, f)) is not None}
    return {"loss": seen.loss, "total": seen.gradient_norms[0], **layers, "own": float(loss(net(x), y).detach())}


def local(tensor):
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()


if __name__ == "__main__":
    rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    shards = hasattr(importlib.import_module("torch.distributed.fsdp"), "fully_shard")
    shown = {case: numbers(case, rank, count) for case in CASES if shards or case != "fsdp"}
    (folder / f"{rank}.json").write_text(json.dumps(shown))
    dist.destroy_process_group()
