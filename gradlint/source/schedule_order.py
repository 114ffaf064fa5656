"""Whether a learning-rate schedule is stepped before the optimizer that it is built on."""

from __future__ import annotations

import ast

from gradlint.location import Location
from gradlint.source.evaluate import Evaluator
from gradlint.source.events import Event
from gradlint.source.index import CONDITIONAL, Block, location
from gradlint.source.optimizers import Optimizers
from gradlint.source.script import Optimizer
from gradlint.source.step_order import exclusive
from gradlint.source.things import ClassThing, Instance, Thing
from gradlint.source.walking import walk


class ScheduleOrder:
    """Compares where schedules and their optimizers are stepped."""

    def __init__(self, evaluator: Evaluator, optimizers: Optimizers) -> None:
        self.evaluator = evaluator
        self.optimizers = optimizers

    def early(self, events: list[Event], step: int, optimizer: Optimizer | None) -> Location | None:
        """Where the schedule of an optimizer is stepped first in the loop of the two, or None."""
        target = events[step]
        if optimizer is None or not optimizer.schedules or target.framework != "plain":
            return None
        own = self.optimizers.keys(target.things)
        if any(self._steps(e, own) and not exclusive(e.path, target.path) for e in events[: self._first(events, step)]):
            return None
        for i, event in enumerate(events[:step]):
            if event.kind == "scheduler_step" and self._before(events, i, step, optimizer):
                return location(event.site.scope.file, event.site.node)
        return None

    def _first(self, events: list[Event], step: int) -> int:
        """The first step of a schedule that can run with a step."""
        schedule = (
            i for i, e in enumerate(events) if e.kind == "scheduler_step" and not exclusive(e.path, events[step].path)
        )
        return next(schedule, 0)

    def _steps(self, event: Event, own: set[int]) -> bool:
        """Whether an event is a step of the same optimizer: one before the loop makes the order right."""
        return event.kind == "step" and bool(own & self.optimizers.keys(event.things))

    def _before(self, events: list[Event], schedule: int, step: int, optimizer: Optimizer) -> bool:
        event, target = events[schedule], events[step]
        call = event.site.node
        # `step(epoch)` sets the rate of that epoch, and a plateau's `step(loss)` follows a first round.
        if call.args or call.keywords or exclusive(event.path, target.path):
            return False
        loops = [b for b in event.path if b.kind == "loop"]
        if (loops and loops[-1] not in target.path) or not self._built_on(event, optimizer):
            return False
        if not loops and not self._is_called_in_turns(event):
            return False
        inner = event.path[event.path.index(loops[-1]) :] if loops else event.path
        if any(_waits(b) and not _asks_for(b, call) for b in inner if b not in target.path):
            return False
        return not any(
            e.kind == "scheduler_step"
            and ast.unparse(e.site.node.func) == ast.unparse(call.func)
            and not exclusive(e.path, event.path)
            for e in events[step + 1 :]
        )

    def _is_called_in_turns(self, event: Event) -> bool:
        """Whether the function around a call is called in a loop: `def train(): schedule.step(); for x in data: …`."""
        scope = event.site.scope
        if event.inlined or scope.kind != "function":
            return False
        return any(b.kind == "loop" for site in self.evaluator.call_sites(scope) for b in site.path)

    def _built_on(self, event: Event, optimizer: Optimizer) -> bool:
        """Whether the schedule stepped is one of the optimizer's, and one that counts its steps as PyTorch's do."""
        stated = {s.location for s in optimizer.schedules}
        return any(
            isinstance(t, Instance)
            and t.call is not None
            and location(t.scope.file, t.call) in stated
            and self._counts(t.cls)
            for t in event.things
        )

    def _counts(self, cls: Thing) -> bool:
        """A schedule that the project wrote may set the rate when it is stepped, unless it derives from PyTorch's."""
        if not isinstance(cls, ClassThing):
            return True
        bases = [ast.unparse(b) for c in self.evaluator.mro(cls.scope) for b in getattr(c.node, "bases", ())]
        return any("LRScheduler" in b or "lr_scheduler" in b for b in bases)


def _asks_for(block: Block, call: ast.Call) -> bool:
    """Whether a condition is that there is a schedule at all: `if scheduler: scheduler.step()`."""
    return (
        block.branch == 0
        and isinstance(block.test, (ast.Name, ast.Attribute))
        and isinstance(call.func, ast.Attribute)
        and ast.dump(block.test) == ast.dump(call.func.value)
    )


def _waits(block: Block) -> bool:
    """Whether a condition may hold the schedule back in the first round: `if epoch > 0:`, `if i % 10 == 9:`."""
    if block.kind not in CONDITIONAL:
        return False
    if block.kind != "if" or block.test is None:
        return True
    for node in walk(block.test):
        match node:
            case ast.Compare(ops=ops) if any(isinstance(o, (ast.Gt, ast.GtE, ast.NotEq)) for o in ops):
                return True
            case ast.BinOp(op=ast.Mod()):
                return True
    return block.branch == 1 or isinstance(block.test, (ast.Name, ast.UnaryOp))
