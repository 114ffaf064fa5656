"""One cause, one finding: which of several findings on one path explains it, and which repeat it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from gradlint.finding import Finding, Outcome, Related
from gradlint.verdicts import PathSubject

STRUCTURAL = frozenset({"GL102", "GL301", "GL302"})
"""Rules that name what is missing; where an init or an activation explains the decay, they come second."""

UNCLIPPED = frozenset({"GL401", "GL404"})
"""Rules whose step is unclipped because its clipping is misplaced (GL402), where that is found too."""

GROWS = frozenset({"GL201", "GL301", "GL302"})
"""Rules that name why a signal is large at the output, where a first loss far above chance (GL604) only meets it."""

EXPLODES = frozenset({"GL101", "GL102", "GL201", "GL301", "GL302", "GL502"})
"""Rules that name why a gradient is large, where a plain unclipped step (GL404) only meets it."""


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, each place and code once; of those on one path of one model one is primary.

    Primary is the confirmed before the refuted, then the most severe, then the one whose nodes account for most
    of the predicted change (attribution), then the lowest code. It lists the others as related; they keep their
    code and get `primary=False`. Order is kept.
    """
    unique = _once(findings)
    groups = _groups(unique)
    merged = dict(enumerate(unique))
    for group in groups:
        first, *others = sorted(group, key=lambda i: _order(unique[i]))
        for i in others:
            merged[i] = replace(unique[i], primary=False)
        related = [_reference(unique[i]) for i in others]
        merged[first] = replace(unique[first], primary=True, related=(*unique[first].related, *related))
    for i, by in list(_explained([merged[i] for i in range(len(unique))])):
        merged[i] = replace(merged[i], primary=False)
        merged[by] = replace(merged[by], related=tuple(dict.fromkeys((*merged[by].related, _reference(unique[i])))))
    return [merged[i] for i in range(len(unique))]


def _reference(finding: Finding) -> Related:
    return Related(finding.location, f"{finding.code} {finding.name}: {finding.message}")


def _explained(findings: Sequence[Finding]) -> Iterator[tuple[int, int]]:
    """(index, index of what explains it) of findings that another one explains without a path in common.

    A step is unclipped because its clipping is misplaced (GL402); the norm of a plain step is large because the net
    or the rate makes it so; weights that are all equal (GL202) are off He's scale (GL201) too; what a deep post-norm
    net needs a warm-up for (GL303) is why its optimizer lacks one (GL506); a signal that grows makes the logits large.
    """
    misplaced = {r.location: i for i, f in enumerate(findings) if f.code == "GL402" for r in f.related}
    constant = {(f.model, f.location): i for i, f in enumerate(findings) if f.code == "GL202"}
    post_norm = {r.location: i for i, f in enumerate(findings) if f.code == "GL303" for r in f.related}
    explosive: dict[str, int] = {}
    growing: dict[str | None, int] = {}
    for i, finding in enumerate(findings):
        if finding.code in GROWS and finding.primary and _confirmed(finding) and finding.severity.rank > 0:
            growing.setdefault(finding.model, i)
        if finding.code in EXPLODES and finding.primary and _confirmed(finding) and finding.severity.rank > 0:
            explosive.setdefault(finding.location.path, i)
    for i, finding in enumerate(findings):
        by = None
        if finding.code in UNCLIPPED:
            by = misplaced.get(finding.location)
        if finding.code == "GL506":
            by = post_norm.get(finding.location)
        if finding.code == "GL604":
            by = growing.get(finding.model)
        if finding.code == "GL201":
            by = constant.get((finding.model, finding.location))
        if by is None and finding.code == "GL404" and finding.tentative:
            by = explosive.get(finding.location.path)
        if by is not None:
            yield i, by


def standing(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings, where one that repeated another stands for itself once that other is gone."""
    kept = list(findings)
    explained = {r.location for f in kept if f.primary for r in f.related}
    return tuple(f if f.primary or f.location in explained else replace(f, primary=True) for f in kept)


def path_of(finding: Finding) -> PathSubject | None:
    """The path that a finding speaks of, or None."""
    return finding.subject if isinstance(finding.subject, PathSubject) else None


def _once(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for each code and place: a model that is built or seen twice is still one fault."""
    kept: dict[tuple[object, ...], Finding] = {}
    for finding in findings:
        key = (finding.code, finding.location)
        before = kept.get(key)
        if before is None:
            kept[key] = finding
            continue
        stronger, weaker = (finding, before) if _strength(finding) > _strength(before) else (before, finding)
        related = tuple(dict.fromkeys((*stronger.related, *weaker.related)))
        kept[key] = replace(stronger, related=related)
    return list(kept.values())


def _strength(finding: Finding) -> tuple[bool, int, bool]:
    return (not _refuted(finding), finding.severity.rank, _confirmed(finding))


def _refuted(finding: Finding) -> bool:
    return finding.verdict is not None and finding.verdict.outcome is Outcome.REFUTED


def _confirmed(finding: Finding) -> bool:
    return finding.verdict is not None and finding.verdict.outcome is Outcome.CONFIRMED


def _groups(findings: Sequence[Finding]) -> list[list[int]]:
    """Indices of findings of one model whose paths share a layer, in groups of two and more."""
    groups: list[tuple[str | None, set[str], list[int]]] = []
    for i, finding in enumerate(findings):
        path = path_of(finding)
        if path is None:
            continue
        layers = set(path.layers)
        joined = [g for g in groups if g[0] == finding.model and g[1] & layers]
        groups = [g for g in groups if g not in joined]
        members = sorted([i, *(j for g in joined for j in g[2])])
        groups.append((finding.model, layers.union(*(g[1] for g in joined)), members))
    return [members for _, _, members in groups if len(members) > 1]


def _order(finding: Finding) -> tuple[object, ...]:
    path = path_of(finding)
    share = path.share if path is not None else 0.0
    return (_refuted(finding), -finding.severity.rank, finding.code in STRUCTURAL, -share, finding.code)
