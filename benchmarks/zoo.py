"""What the graph rules say of healthy published networks in their standard form: every warning is a false alarm.

Run by hand, in an environment with torch, torchvision, timm and transformers:

    python benchmarks/zoo.py [torchvision|timm|transformers] [--limit N] [--only SUBSTRING] [--facts]

Each network is built with random weights as its library makes it, traced on meta tensors, predicted, and shown to
every graph rule without an optimizer (whose bands are the wide ones) and, with `--optimizer SGD`, with one. Prints a
line for each warning and error, with `--facts` for each info too, and a summary.
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from coverage import FAMILIES

from gradlint.causes import merge
from gradlint.finding import Finding, Severity
from gradlint.graph.build import build
from gradlint.graph.model import Loss
from gradlint.graph.signal import profile
from gradlint.graph.trace import trace_model
from gradlint.location import Location
from gradlint.rule import Context, registry
from gradlint.source.script import Optimizer
from gradlint.source.value import UNKNOWN
from gradlint.worker.protocol import Slice


def torchvision_nets() -> Iterator[tuple[str, str, str]]:
    """(name, imports, expression) of every classification net of torchvision."""
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models):
        yield name, "import torchvision", f"torchvision.models.get_model({name!r}, weights=None)"


def timm_nets() -> Iterator[tuple[str, str, str]]:
    """One model of each timm module, a small one where the names tell."""
    import timm

    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            small = min(names, key=lambda n: (not any(s in n for s in ("tiny", "nano", "_s", "small")), n))
            yield small, "import timm", f"timm.create_model({small!r}, pretrained=False)"


def transformers_nets() -> Iterator[tuple[str, str, str]]:
    """Thirty families of transformers with tiny configurations."""
    import transformers

    names = {name.lower(): name for name in dir(transformers)}
    for family, settings in FAMILIES.items():
        config, model = names[f"{family}config".lower()], names[f"{family}model".lower()]
        yield f"{family}Model", "import transformers", f"transformers.{model}(transformers.{config}(**{settings!r}))"


SUITES = {"torchvision": torchvision_nets, "timm": timm_nets, "transformers": transformers_nets}


def findings(imports: str, expression: str, context: Context) -> tuple[list[Finding], str]:
    """What the graph rules say of a net, one cause once, and how the net was seen."""
    sliced = Slice(
        str(Path.cwd() / "<model>"),
        str(Path.cwd()),
        imports + "\n",
        expression,
        keep=((1, 1),),
        location=Location("zoo.py", 1),
    )
    traced = trace_model(build(sliced))
    graph = replace(traced.graph, loss=Loss("cross_entropy"), location=Location("zoo.py", 1))
    predicted = profile(graph)
    found = [f for rule in registry().values() for f in rule().check_graph(graph, predicted, context)]
    seen = f"{graph.traced_by}, {predicted.confidence}, coverage {predicted.coverage:.2f}"
    return merge(f for f in found if not f.tentative), seen


def survey(suite: str, limit: int, only: str, context: Context, *, facts: bool) -> None:
    """Show every net of a suite to the rules and print what they say."""
    alarms: Counter[str] = Counter()
    alarmed: list[str] = []
    total = failed = 0
    for name, imports, expression in SUITES[suite]():
        if only not in name or total >= limit:
            continue
        total += 1
        start = time.process_time()
        try:
            found, seen = findings(imports, expression, context)
        except Exception as error:
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"  - {name:40} {type(error).__name__}: {str(error)[:90]} ({where.name}:{where.lineno})", flush=True)
            continue
        spent = time.process_time() - start
        loud = [f for f in found if f.severity is not Severity.INFO]
        if loud:
            alarmed.append(name)
            alarms.update(f.code for f in loud)
        for finding in found if facts else loud:
            mark = "!" if finding.primary else " "
            print(f"  {mark} {name:40} {finding.code} {finding.severity.value:7} {finding.message[:230]}", flush=True)
        if facts or loud:
            print(f"      {seen}, {spent:.1f} s", flush=True)
    print(f"{suite}: {total - failed} of {total} seen, {len(alarmed)} with a warning or an error: {dict(alarms)}")


def main() -> None:
    """Survey the suites that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", default=list(SUITES))
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--only", default="")
    parser.add_argument("--optimizer", default="", help="the algorithm whose bands apply")
    parser.add_argument("--facts", action="store_true", help="print findings of severity info too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    context = Context()
    if arguments.optimizer:
        known = Optimizer("optimizer", (arguments.optimizer,), Location("zoo.py", 1), (), UNKNOWN)
        context = Context(optimizers=(known,))
    for suite in arguments.suites:
        survey(suite, arguments.limit, arguments.only, context, facts=arguments.facts)


if __name__ == "__main__":
    main()
