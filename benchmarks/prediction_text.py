"""Text models as functions of their ids alone."""

from __future__ import annotations

import torch
from torch import nn


class Hidden(nn.Module):
    """A text model as a function of its ids alone, which gives its last hidden state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.pair = bool(model.config.is_encoder_decoder)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if self.pair else {})
        return self.model(**inputs)[0]
