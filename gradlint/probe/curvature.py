"""The largest eigenvalue of the loss's Hessian by Lanczos iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

ITERATIONS = 8
"""Hessian-vector products; about six give the largest eigenvalue to a few percent."""


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Kernels with a double backward: cuDNN's recurrent ones and fused attention have none."""
    with torch.backends.cudnn.flags(enabled=False):
        try:
            from torch.nn.attention import SDPBackend, sdpa_kernel
        except ImportError:
            yield
            return
        with sdpa_kernel(SDPBackend.MATH):
            yield


def largest_eigenvalue(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], seed: int = 0, iterations: int = ITERATIONS
) -> float:
    """λ_max of the Hessian of `loss()` with respect to the parameters (Lanczos with full reorthogonalisation).

    Power iteration can lock onto a negative eigenvalue of larger magnitude; the largest Ritz value cannot.
    """
    with twice_differentiable(), torch.enable_grad():
        gradients = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
        used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad]
        if not used:
            return 0.0
        kept = [p for p, _ in used]
        flat = torch.cat([g.reshape(-1) for _, g in used])

        def product(vector: Tensor) -> Tensor:
            parts = torch.autograd.grad(flat, kept, grad_outputs=vector, retain_graph=True, allow_unused=True)
            return torch.cat(
                [(torch.zeros_like(p) if h is None else h).reshape(-1) for p, h in zip(kept, parts, strict=True)]
            ).detach()

        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(flat.numel(), generator=generator, dtype=torch.float32).to(flat)
        basis = [start / start.norm()]
        diagonal: list[Tensor] = []
        off: list[Tensor] = []
        for _ in range(min(iterations, flat.numel())):
            following = product(basis[-1])
            diagonal.append(torch.dot(following, basis[-1]))
            for vector in basis:
                following = following - torch.dot(following, vector) * vector
            length = following.norm()
            if not float(length) > 1e-6 * abs(float(diagonal[0])) + 1e-30:
                break
            off.append(length)
            basis.append(following / length)
    alpha = torch.stack(diagonal).double().cpu()
    matrix = torch.diag(alpha)
    if len(alpha) > 1:
        beta = torch.stack(off[: len(alpha) - 1]).double().cpu()
        matrix = matrix + torch.diag(beta, 1) + torch.diag(beta, -1)
    return float(torch.linalg.eigvalsh(matrix)[-1])
