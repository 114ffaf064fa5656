"""Places in notebooks: from lines of the module that a notebook is read as to lines of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gradlint.finding import Finding
from gradlint.graph.model import ModelGraph
from gradlint.location import Location
from gradlint.result import CheckedModel
from gradlint.source.notebook import Notebook
from gradlint.source.script import Skipped


@dataclass(frozen=True)
class Cells:
    """The notebooks of a run by path; what is not in one of them is left as it is."""

    notebooks: Mapping[str, Notebook]

    def place(self, at: Location) -> Location:
        """A place within its cell."""
        notebook = self.notebooks.get(at.path)
        return at if notebook is None or at.cell is not None else notebook.locate(at)

    def finding(self, finding: Finding) -> Finding:
        """The finding with its places, and those of its fix, in cells."""
        if not self.notebooks:
            return finding
        related = tuple(replace(r, location=self.place(r.location)) for r in finding.related)
        fix = finding.fix
        if fix is not None:
            fix = replace(fix, edits=tuple(replace(e, location=self.place(e.location)) for e in fix.edits))
        return replace(finding, location=self.place(finding.location), related=related, fix=fix)

    def skipped(self, skipped: Skipped) -> Skipped:
        """What was skipped, with its place in a cell."""
        return replace(skipped, location=self.place(skipped.location))

    def model(self, model: CheckedModel) -> CheckedModel:
        """The model with the places of its construction and its layers in cells."""
        return replace(model, graph=self._graph(model.graph)) if model.path in self.notebooks else model

    def _graph(self, graph: ModelGraph) -> ModelGraph:
        nodes = tuple(
            replace(n, location=self._known(n.location), constructor=self._known(n.constructor)) for n in graph.nodes
        )
        stopped = graph.stopped_at and (self.place(graph.stopped_at[0]), graph.stopped_at[1])
        return replace(graph, nodes=nodes, location=self._known(graph.location), stopped_at=stopped)

    def _known(self, at: Location | None) -> Location | None:
        return at and self.place(at)
