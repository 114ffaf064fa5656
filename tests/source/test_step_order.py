"""The order of what a training step does: clips under a GradScaler, schedules, gradients of several optimizers."""

from __future__ import annotations

import pytest

HEAD = """
import torch
from torch import nn
from torch.cuda.amp import GradScaler

net = nn.Linear(8, 2)
other = nn.Linear(8, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
second = torch.optim.SGD(other.parameters(), lr=0.1)
schedule = torch.optim.lr_scheduler.StepLR(opt, 30)
scaler = GradScaler({scaler})
"""

SCALED = """
for x in data:
    opt.zero_grad()
    loss = net(x).sum()
    scaler.scale(loss).backward()
    {between}
    scaler.step(opt)
    scaler.update()
"""

CLIP = "torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)"


def step_of(read, body, scaler=""):
    return read("t.py", {"t.py": HEAD.format(scaler=scaler) + body}).steps[0]


def test_a_clip_on_the_scaled_gradient_is_misplaced(read):
    step = step_of(read, SCALED.format(between=CLIP))
    assert (step.clipping.position, step.misplaced_clipping.position) == ("between", "before_unscale")
    assert step.misplaced_clipping.enabled


@pytest.mark.parametrize(
    "between",
    [
        f"scaler.unscale_(opt); {CLIP}",
        f"[p.grad.div_(scaler.get_scale()) for p in net.parameters()]; {CLIP}",
        "torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0 * scaler.get_scale())",
    ],
)
def test_a_clip_that_takes_the_factor_off_is_right(read, between):
    assert step_of(read, SCALED.format(between=between)).misplaced_clipping is None


def test_a_scaler_that_is_off_by_default_makes_the_fault_one_that_can_be_switched_on(read):
    flag = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--amp', action='store_true')\n"
    text = flag + "a = p.parse_args()\n" + HEAD.format(scaler="enabled=a.amp") + SCALED.format(between=CLIP)
    (step,) = read("t.py", {"t.py": text}).steps
    assert step.misplaced_clipping.position == "before_unscale"
    assert not step.misplaced_clipping.enabled


def test_a_scaler_that_is_off_by_a_literal_scales_nothing(read):
    assert step_of(read, SCALED.format(between=CLIP), "enabled=False").misplaced_clipping is None


def test_a_clip_of_the_branch_without_a_scaler_is_right(read):
    body = f"""
for x in data:
    loss = net(x).sum()
    if amp:
        scaler.scale(loss).backward()
    else:
        loss.backward()
    if not amp:
        {CLIP}
    if amp:
        scaler.step(opt)
"""
    assert step_of(read, body).misplaced_clipping is None


def test_a_clip_between_another_backward_and_step_is_not_misplaced(read):
    body = """
for x in data:
    a(x).backward()
    torch.nn.utils.clip_grad_norm_(first(), 1.0)
    one.optimizer.step()
    b(x).backward()
    torch.nn.utils.clip_grad_norm_(rest(), 1.0)
    two.optimizer.step()
"""
    assert [s.misplaced_clipping for s in read("t.py", {"t.py": HEAD.format(scaler="") + body}).steps] == [None, None]


def test_a_clip_between_two_steps_of_one_backward_is_not_misplaced(read):
    body = """
for x in data:
    (net(x) + other(x)).sum().backward()
    opt.step()
    for p in unknown.parameters():
        p.grad.data *= 0.1
    second.step()
"""
    script = read("t.py", {"t.py": HEAD.format(scaler="") + body})
    assert [s.misplaced_clipping for s in script.steps] == [None, None]


EPOCHS = """
{before}
for epoch in range(9):
    {top}
    for x in data:
        opt.zero_grad()
        net(x).sum().backward()
        opt.step()
    {bottom}
"""


def early(read, top="pass", bottom="pass", before=""):
    found = step_of(read, EPOCHS.format(top=top, bottom=bottom, before=before)).early_schedule
    return found.line if found else None


def test_a_schedule_stepped_at_the_top_of_the_epoch_is_early(read):
    assert early(read, top="schedule.step()") == 15


def test_asking_whether_there_is_a_schedule_does_not_hold_it_back(read):
    assert early(read, top="if schedule: schedule.step()") == 15
    assert early(read, top="if ready: schedule.step()") is None


def test_a_warm_up_condition_does_not_hold_it_back(read):
    assert early(read, top="if epoch <= 2: schedule.step()") == 15


@pytest.mark.parametrize(
    "place",
    [
        {"bottom": "schedule.step()"},
        {"top": "if epoch > 0: schedule.step()"},
        {"top": "if epoch: schedule.step()"},
        {"top": "schedule.step(epoch)"},
        {"top": "schedule.step()", "bottom": "schedule.step()"},
        {"top": "schedule.step()", "before": "opt.step()"},
        {"top": "other_schedule.step()"},
    ],
)
def test_a_schedule_after_a_first_step_is_not_early(read, place):
    assert early(read, **place) is None


IN_FUNCTION = """
def train():
    schedule.step()
    for x in data:
        opt.zero_grad()
        net(x).sum().backward()
        opt.step()

{call}
"""


@pytest.mark.parametrize(("call", "early"), [("for epoch in range(9): train()", True), ("train()", False)])
def test_a_schedule_at_the_top_of_a_function_is_early_where_a_loop_calls_it(read, call, early):
    assert (step_of(read, IN_FUNCTION.format(call=call)).early_schedule is not None) is early


@pytest.mark.parametrize(("base", "line"), [("torch.optim.lr_scheduler.LRScheduler", 17), ("object", None)])
def test_a_schedule_of_the_project_counts_where_it_derives_from_pytorchs(read, base, line):
    own = f"class OwnLR({base}):\n    def __init__(self, opt): self.opt = opt"
    assert early(read, before=f"{own}\nschedule = OwnLR(opt)", top="schedule.step()") == line


def test_the_zero_grad_of_another_optimizer_clears_nothing_of_this_one(read):
    body = """
for x in data:
    {clear}.zero_grad()
    other(x).sum().backward()
    second.step()
    net(x).sum().backward()
    opt.step()
"""
    script = read("t.py", {"t.py": HEAD.format(scaler="") + body.format(clear="second")})
    assert [(s.optimizer.name, s.cleared) for s in script.steps] == [("second", True), ("opt", False)]
    script = read("t.py", {"t.py": HEAD.format(scaler="") + body.format(clear="unknown")})
    assert all(s.cleared for s in script.steps)


TURN = """
import torch
from engine import Engine

def trainer(net, opt, bound=None):
    def turn(engine, batch):
        {first}
        loss = net(batch).sum()
        {before}
        loss.backward()
        opt.step()
        {after}
    return Engine(turn)

net = torch.nn.LSTM(4, 4)
opt = torch.optim.Adam(net.parameters())
trainer(net, opt, bound=load()).run()
"""


@pytest.mark.parametrize(
    ("first", "before", "after", "position"),
    [
        ("opt.zero_grad()", "torch.nn.utils.clip_grad_norm_(net.parameters(), bound)", "pass", "before_backward"),
        ("opt.zero_grad()", "pass", "torch.nn.utils.clip_grad_norm_(net.parameters(), bound)", "after_step"),
        ("pass", "torch.nn.utils.clip_grad_norm_(net.parameters(), bound)", "pass", None),
    ],
)
def test_a_clip_in_a_function_that_a_framework_calls_in_each_turn(read, first, before, after, position):
    (step,) = read("t.py", {"t.py": TURN.format(first=first, before=before, after=after)}).steps
    assert (step.misplaced_clipping.position if step.misplaced_clipping else None) == position
