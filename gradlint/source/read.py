"""From a file to its `Script`: all that it says about models, optimizers and training steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gradlint.source.broken_graphs import BrokenGraphs
from gradlint.source.callers import importers_of
from gradlint.source.carried_state import CarriedStates
from gradlint.source.data import dataset_of, losses_of
from gradlint.source.evaluate import Evaluator
from gradlint.source.frameworks import Frameworks
from gradlint.source.index import FileIndex, location
from gradlint.source.loss_reads import LossReads
from gradlint.source.models import Models
from gradlint.source.optimizers import Optimizers
from gradlint.source.project import Project, SourceFile, read_text
from gradlint.source.script import Forgotten, Model, Optimizer, Script, Skipped, TrainingStep
from gradlint.source.singularities import Singularities
from gradlint.source.steps import Steps
from gradlint.source.things import FunctionThing, Instance
from gradlint.source.trainable import Trainable
from gradlint.source.ungiven import Ungiven
from gradlint.source.unregistered import Unregistered

MAX_IMPORTED = 16
"""How many project files that a script calls into are read for training steps of their own."""

MAX_SEEN = 64
MAX_IMPORT_DEPTH = 2
"""How many imported files are looked at on the way, and how far from the script."""


def read_script(source: Path | str | SourceFile, project: Project) -> Script:
    """The facts of a file, with what it imports and who imports it within the project taken into account.

    Training steps that stand in another file of the project but run from this one are included, at their own place.
    Raises SyntaxError for a file that does not parse, UnreadableError for one that is not text.
    """
    if isinstance(source, SourceFile):
        file = source
    else:
        path = Path(source).resolve()
        found = project.file(path)
        file = found or SourceFile(str(path), read_text(path), module=project.module_name(path))
    _ = file.tree
    project.add(file.path, file)
    return _Reading(file, project).script()


class _Reading:
    """One reading of one file."""

    def __init__(self, file: SourceFile, project: Project) -> None:
        importers = importers_of(project)
        self.file = file
        self.project = project
        self.evaluator = Evaluator(project, importers)
        self.models = Models(self.evaluator)
        self.optimizers = Optimizers(self.evaluator, self.models)
        self.steps = Steps(self.evaluator, self.models, self.optimizers)
        self.trainable = Trainable(self.models)
        self.frameworks = Frameworks(self.evaluator, self.models, self.optimizers)

    def script(self) -> Script:
        index = self.evaluator.index(self.file)
        steps = self._own_steps(index)
        for other, words in self._called_files(index):
            called = _called(other, words)
            steps += [s for s in self._own_steps(other) if set(s.function.split(".")) & called]
        steps = list({s.optimizer_step: s for s in reversed(steps)}.values())[::-1]
        models = self.models.constructed_in(index)
        models += [m for s in steps for m in s.models]
        optimizers = self._optimizers(index)
        optimizers += [s.optimizer for s in steps if s.optimizer is not None]
        classes = [self.models.model_class(c) for c in index.classes if self.models.is_module(c)]
        distinct_optimizers = {o.location: o for o in reversed(optimizers)}
        ordered = [o for o in optimizers if distinct_optimizers.get(o.location) is o]
        models += [m for o in ordered for m in o.models]
        return Script(
            path=self.file.path,
            root=str(self.project.root),
            text=self.file.text,
            models=tuple(dict.fromkeys(models)),
            classes=tuple(classes),
            optimizers=tuple(dict.fromkeys(ordered)),
            steps=tuple(steps),
            losses=tuple(losses_of(self.evaluator, index)),
            forgotten=tuple(self._forgotten(index, optimizers)),
            carried=tuple(CarriedStates(self.models).of(index)),
            broken=tuple(BrokenGraphs(self.models, self.trainable).of(index)),
            singular=tuple(Singularities(self.models).of(index)),
            reads=tuple(LossReads(self.models).of(index)),
            dataset=dataset_of(self.evaluator, index),
            skipped=tuple(self._skipped(index, models)),
            files=tuple(self.evaluator.files),
        )

    def _own_steps(self, index: FileIndex) -> list[TrainingStep]:
        return [*self.steps.of(index), *self.frameworks.of(index)]

    def _forgotten(self, index: FileIndex, optimizers: list[Optimizer]) -> Iterator[Forgotten]:
        yield from Unregistered(self.models, self.trainable).of(index)
        yield from Ungiven(self.models, self.optimizers, self.trainable).of(index, optimizers)

    def _optimizers(self, index: FileIndex) -> list[Optimizer]:
        found: list[Optimizer] = []
        for scope in index.scopes:
            if not scope.words:
                continue
            for site in scope.calls:
                things = self.evaluator.ask(site.node.func, scope)
                made = [
                    made
                    for t in things
                    if not isinstance(t, FunctionThing)
                    and self.optimizers.algorithm(made := Instance(t, site.node, scope)) is not None
                ]
                if made and not self.evaluator.dead(site.path, scope):
                    optimizer = self.optimizers.optimizer(made[0], made)
                    if _is_used(optimizer, index):
                        found.append(optimizer)
        return found

    def _called_files(self, index: FileIndex) -> list[tuple[FileIndex, frozenset[str]]]:
        """The project files with optimizer steps that this file imports, directly or through what it imports.

        Each with the words of the files on the way there: a function that none of them names is not run from here.
        """
        found: dict[str, tuple[FileIndex, frozenset[str]]] = {}
        seen = {index.file.path}
        queue = [(index.file, index, 0, _words(index))]
        while queue and len(found) < MAX_IMPORTED:
            file, current, depth, words = queue.pop(0)
            for other in self._imports(file, current):
                if other.path in seen or len(seen) > MAX_SEEN:
                    continue
                seen.add(other.path)
                if ".step(" not in other.text and depth >= MAX_IMPORT_DEPTH:
                    continue
                following = self.evaluator.index(other)
                if ".step(" in other.text:
                    found[other.path] = following, words
                if depth < MAX_IMPORT_DEPTH:
                    queue.append((other, following, depth + 1, words | _words(following)))
        return list(found.values())

    def _imports(self, file: SourceFile, index: FileIndex) -> Iterator[SourceFile]:
        """The project files that a file names in its imports, in order."""
        for name, level in index.imports():
            other = self.evaluator.module(name, file, level)
            if other is not None:
                yield other

    def _skipped(self, index: FileIndex, models: list[Model]) -> list[Skipped]:
        made = {c for m in models for c in m.classes}
        found = []
        for scope in index.classes:
            if not self.models.is_module(scope):
                continue
            facts = self.models.model_class(scope)
            if facts.qualified_name in made or not scope.method("forward"):
                continue
            if any(
                s.scope.owner_class is not None for s in self.evaluator.call_sites(scope.method("__init__") or scope)
            ):
                continue
            reason = f"`{scope.name}` is defined but not constructed here"
            found.append(Skipped(location(scope.file, scope.node), reason, facts.qualified_name))
        return found


def _words(index: FileIndex) -> frozenset[str]:
    return frozenset(w for s in index.scopes for w in s.words)


def _called(index: FileIndex, words: frozenset[str]) -> set[str]:
    """The words of a file's callers, and those of its functions and classes that they name, and so on."""
    called = set(words)
    waiting = [s for s in index.scopes if s.kind != "module"]
    while named := [s for s in waiting if called & set(s.qualified_name.split("."))]:
        waiting = [s for s in waiting if s not in named]
        called.update(w for s in named for w in s.words)
    return called


def _is_used(optimizer: Optimizer, index: FileIndex) -> bool:
    """Whether a variable that holds an optimizer is read at all; one that is not trains nothing."""
    name = optimizer.name.rpartition(".")[2]
    assigned = any(optimizer.name in s.bindings or optimizer.name in s.stores for s in index.scopes)
    return not assigned or any(name in s.words for s in index.scopes)
