"""The processes of a distributed run, each of which sees a part of one batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class RankError(RuntimeError):
    """A process of the run could not do its part; the message is one line that says which."""


@dataclass(frozen=True)
class Ranks:
    """This process and the others of its default group; collectives run on `device`.

    All of them must make the same calls in the same order.
    """

    rank: int
    count: int
    device: torch.device

    @classmethod
    def here(cls) -> Ranks | None:
        """The ranks of the process group that the program has initialised; None for a process on its own."""
        distributed = torch.distributed
        if not distributed.is_available() or not distributed.is_initialized():
            return None
        count = distributed.get_world_size()
        if count < 2:
            return None
        on_gpu = "nccl" in distributed.get_backend()
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        return cls(distributed.get_rank(), count, device)

    def gather(self, value: Any) -> list[Any]:
        """What every rank holds, in their order. Values are such that JSON can write; NaN and infinity among them."""
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        size = torch.tensor([text.numel()], dtype=torch.int64, device=self.device)
        sizes = [torch.zeros_like(size) for _ in range(self.count)]
        torch.distributed.all_gather(sizes, size)
        lengths = [int(s) for s in sizes]
        mine = torch.zeros(max(lengths), dtype=torch.uint8, device=self.device)
        mine[: text.numel()] = text
        parts = [torch.zeros_like(mine) for _ in range(self.count)]
        torch.distributed.all_gather(parts, mine)
        return [json.loads(bytes(p[:n].tolist())) for p, n in zip(parts, lengths, strict=True)]

    def agree(self, failure: BaseException | None) -> None:
        """Raise on all ranks what went wrong on any: the failure itself, or RankError on the others."""
        said = None if failure is None else f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
        answers = self.gather(said)
        if failure is not None:
            raise failure
        for rank, answer in enumerate(answers):
            if answer is not None:
                raise RankError(f"rank {rank}: {answer}")

    def average(self, gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """The mean of each gradient over the ranks, one after the other; `like` are the tensors that they are of.

        A rank that has none contributes zeros. What is distributed already was averaged by its own engine.
        """
        there = self.gather([g is not None for g in gradients])
        averaged: list[Tensor | None] = []
        for index, (gradient, parameter) in enumerate(zip(gradients, like, strict=True)):
            if not any(flags[index] for flags in there) or distributed(parameter):
                averaged.append(gradient)
                continue
            mine = torch.zeros_like(parameter) if gradient is None else gradient
            mine = mine.to_dense() if mine.is_sparse else mine
            mine = mine.contiguous()
            torch.distributed.all_reduce(mine)
            averaged.append(mine.div_(self.count))
        return averaged

    def share(self, tensor: Tensor) -> float:
        """By what a sum over this process's part of a tensor counts in the sum over all ranks.

        A tensor that every rank holds counts once in all; of a distributed one each shard does.
        """
        mesh = getattr(tensor, "device_mesh", None)
        if mesh is None:
            return 1 / self.count
        copies = self.count / mesh.size()
        for dimension, placement in enumerate(tensor.placements):
            if placement.is_replicate():
                copies *= mesh.size(dimension)
        return float(1 / copies)


def together(work: Callable[[], Result], ranks: Ranks | None) -> Result:
    """The result of what every rank does for itself. Raises on all of them what it raises on any."""
    if ranks is None:
        return work()
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    ranks.agree(failure)
    return result  # type: ignore[return-value]


def distributed(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes (DTensor, as FSDP2 makes them)."""
    return hasattr(tensor, "full_tensor")
