"""The edit that bounds the gradient of a training step."""

from __future__ import annotations

from gradlint.finding import Edit, Fix
from gradlint.location import Location
from gradlint.source.script import Script, TrainingStep


def clip_after_backward(step: TrainingStep, script: Script, max_norm: float) -> Fix | None:
    """Insert `clip_grad_norm_` on a line of its own before the optimizer step, or None where that is not safe.

    Safe are plain loops in this file where the optimizer step is a statement of its own behind `backward()`, and
    the model is one variable. Under a GradScaler `unscale_` goes in too, unless it is there already.
    """
    at, back = step.optimizer_step, step.backward
    if step.framework != "plain" or back is None or len(step.models) != 1 or step.clipping or step.misplaced_clipping:
        return None
    if at.path != script.path or back.path != script.path or at.cell is not None or back.line >= at.line:
        return None
    lines = script.text.split("\n")
    if at.line > len(lines) or not all(part.isidentifier() for part in step.models[0].name.split(".")):
        return None
    line = lines[at.line - 1]
    indent = line[: len(line) - len(line.lstrip())]
    back_line = lines[back.line - 1]
    if back_line[: len(back_line) - len(back_line.lstrip())] != indent or _is_clause(line) or ";" in line:
        return None
    receiver = next((e.receiver for e in step.events if e.kind == "step"), "")
    added = []
    if step.scaler and not any(e.kind == "unscale" for e in step.events):
        optimizer = step.optimizer.name if step.optimizer else ""
        scaler = next((e.receiver for e in step.events if e.kind == "update"), receiver)
        if not scaler or not optimizer:
            return None
        added.append(f"{indent}{scaler}.unscale_({optimizer})\n")
    model = step.models[0].name
    added.append(f"{indent}torch.nn.utils.clip_grad_norm_({model}.parameters(), max_norm={float(max_norm)})\n")
    if not any(text.split("#")[0].strip() == "import torch" for text in lines):
        return None
    place = Location(at.path, at.line, 1, at.line, 1)
    return Fix(f"clip the gradient of `{model}` to norm {max_norm:g}", (Edit(place, "".join(added)),), safe=True)


def _is_clause(line: str) -> bool:
    """Whether a line shares its statement with a compound one (`if ok: optimizer.step()`)."""
    words = line.strip().split(maxsplit=1)
    return bool(words) and words[0].rstrip(":") in ("if", "for", "while", "with", "else", "elif", "try", "lambda")
