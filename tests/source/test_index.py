from __future__ import annotations

from pathlib import Path

from gradlint.source.callers import importers_of
from gradlint.source.evaluate import Evaluator
from gradlint.source.index import FileIndex
from gradlint.source.indexing import build_index
from gradlint.source.project import Project, SourceFile
from gradlint.source.things import External


def test_the_imports_of_a_file_are_listed_each_once(tmp_path: Path) -> None:
    text = "import a.b as c, d\nfrom e import *\ndef f():\n    from . import g\n    from .h import i, j\n    import d\n"
    found = importers_of(Project(tmp_path)).index(SourceFile(str(tmp_path / "train.py"), text)).imports()
    assert found == [
        *[("e", 0), ("a.b", 0), ("d", 0)],
        *[("", 1), ("g", 1), ("h", 1), ("h.i", 1), ("h.j", 1)],
    ]


def test_a_changed_file_lists_its_new_imports_and_calls(tmp_path: Path) -> None:
    importers = importers_of(Project(tmp_path))
    path = str(tmp_path / "train.py")
    before = importers.index(SourceFile(path, "import a\na.run()\n"))
    assert (before.imports(), len(before.module.all_calls())) == ([("a", 0)], 1)
    after = importers.index(SourceFile(path, "import b\nb.run(b.make())\n"))
    assert (after.imports(), len(after.module.all_calls())) == ([("b", 0)], 2)


def test_a_package_is_found_where_it_lies_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "nets" / "deep").mkdir(parents=True)
    for name in ("nets/__init__.py", "nets/deep/__init__.py", "nets/deep/block.py", "train.py"):
        (tmp_path / name).write_text("")
    project = Project(tmp_path)
    script = project.file(tmp_path / "train.py")
    assert script is not None
    found = {n: project.module(n, script) for n in ("nets", "nets.deep", "nets.deep.block", "nets.block", "torch.nn")}
    paths = {n: Path(f.path).relative_to(tmp_path).as_posix() if f else None for n, f in found.items()}
    assert paths == {
        "nets": "nets/__init__.py",
        "nets.deep": "nets/deep/__init__.py",
        "nets.deep.block": "nets/deep/block.py",
        "nets.block": None,
        "torch.nn": None,
    }


def _index(text: str) -> FileIndex:
    return build_index(SourceFile("train.py", text))


def test_an_attribute_of_a_module_means_the_same_in_every_function_that_calls_nothing_else_so() -> None:
    index = _index(
        "import torch.nn as nn\n"
        "def first():\n    nn.Linear(2, 3)\n"
        "def second():\n    def inner():\n        nn.Linear(2, 3)\n"
        "def of_the_module():\n    global nn\n    nn = other\n    nn.Linear(2, 3)\n"
        "def passed(nn):\n    nn.Linear(2, 3)\n"
        "def assigned():\n    nn = other\n    nn.Linear(2, 3)\n"
        "def around(nn):\n    def inner():\n        nn.Linear(2, 3)\n"
        "class Net:\n    nn = other\n    nn.Linear(2, 3)\n    def method(self):\n        nn.Linear(2, 3)\n"
        "nn.Linear(2, 3)\n"
    )
    sites = index.calls_by_name["Linear"]
    twins = {s.scope.qualified_name: index.twin(s.node.func, s.scope) for s in sites}  # type: ignore[arg-type]
    alike = (sites[0].node.func, sites[0].scope)
    assert sites[0].scope.name == "first"
    assert twins == {
        **dict.fromkeys(["first", "second.inner", "of_the_module", "Net.method"], alike),
        **dict.fromkeys(["passed", "assigned", "around.inner", "Net", ""]),
    }


def test_an_attribute_that_is_stored_anywhere_has_no_twin() -> None:
    index = _index("import nets\ndef change(): nets.depth = 3\ndef use(): nets.depth.bit_length()\n")
    (site,) = index.calls_by_name["bit_length"]
    assert index.stored == {"depth"}
    assert index.twin(site.node.func, site.scope) is None  # type: ignore[arg-type]


def test_the_same_words_are_resolved_by_what_each_function_calls_so(tmp_path: Path) -> None:
    text = (
        "import torch.nn as nn\n"
        "def first(): return nn.Linear\n"
        "def again(): return nn.Linear\n"
        "def shadowed():\n    import lazy as nn\n    return nn.Linear\n"
    )
    file = SourceFile(str(tmp_path / "train.py"), text)
    project = Project(tmp_path)
    evaluator = Evaluator(project, importers_of(project))
    functions = evaluator.index(file).module.children
    found = [evaluator.ask(value, f) for f in functions for value, _ in f.returns]
    assert found == [(External("torch.nn.Linear"),), (External("torch.nn.Linear"),), (External("lazy.Linear"),)]


def test_the_blocks_around_a_place_are_found_outermost_first() -> None:
    text = (
        "if a:\n    for b in c:\n        d\n    e\nelse:\n    try:\n        f\n    except E:\n        g\n    h\ni\n"
        "while j:\n    k\n"
    )
    module = _index(text).module
    kinds = {line: [(b.kind, b.branch) for b in module.path_at((line, 8))] for line in (3, 7, 9)}
    assert kinds == {
        3: [("if", 0), ("loop", 0)],
        7: [("if", 1), ("try", 0)],
        9: [("if", 1), ("handler", 1)],
    }
    assert [module.path_at((line, 0)) for line in (1, 11)] == [(), ()]
    assert [b.kind for b in module.path_at((13, 4))] == ["loop"]


def test_what_is_written_to_in_place_is_known_of_a_function_and_of_those_in_it() -> None:
    text = (
        "def train(x, y, z, net):\n"
        "    x[0].data[1] = 2\n"
        "    net.requires_grad_(False)\n"
        "    z = y[0]\n"
        "    def inner():\n        y.clamp_(0)\n"
        "def other(z):\n    z.zero_()\n"
    )
    assert [f.filled() for f in _index(text).module.children] == [{"x", "y"}, {"z"}]


def test_a_power_is_among_the_words_of_the_function_that_takes_it() -> None:
    functions = _index("def f(x): return 1 - x**0.5\ndef g(x, **kw): return x * 2\n").module.children
    assert ["**" in f.words for f in functions] == [True, False]
