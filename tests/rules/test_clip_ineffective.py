"""GL403 tells a bound that does nothing from a norm that is only read."""

from __future__ import annotations

import pytest
from scripts import found, lines

STEP = """
model = nn.LSTM(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in loader:
    optimizer.zero_grad()
    model(x)[0].mean().backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    {clip}
    optimizer.step()
"""


@pytest.mark.parametrize(("clip", "expected"), [("pass", 1), ("nn.utils.clip_grad_norm_(model.parameters(), 1.0)", 0)])
def test_a_norm_that_is_read_before_it_is_clipped_is_no_bound(clip, expected, tmp_path):
    findings = found("GL403", STEP.format(clip=clip), tmp_path)
    assert lines(findings, tmp_path) == ['norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf"))'] * expected
