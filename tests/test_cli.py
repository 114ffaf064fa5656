"""The command as people use it: exit codes, formats, bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gradlint.cli import cli
from gradlint.rule import registry

SIGMOIDS = """\
import torch
from torch import nn

net = nn.Sequential(
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 10),
)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
"""
CLEAN = "import torch\nfrom torch import nn\n\nnet = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep.py").write_text(SIGMOIDS)
    (tmp_path / "clean.py").write_text(CLEAN)
    return tmp_path


def gradlint(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=stdin)


def check(*arguments: str, stdin: str | None = None) -> Result:
    return gradlint("check", "--no-exec", *arguments, stdin=stdin)


def document(*arguments: str, stdin: str | None = None) -> dict:  # type: ignore[type-arg]
    return json.loads(check("--output-format", "json", *arguments, stdin=stdin).output)  # type: ignore[no-any-return]


def test_findings_exit_1_and_none_exit_0(here: Path) -> None:
    assert check("deep.py").exit_code == 1
    assert check("clean.py").exit_code == 0
    assert check("--exit-zero", "deep.py").exit_code == 0


def test_fail_on_moves_the_threshold(here: Path) -> None:
    assert check("--fail-on", "error", "--select", "GL002", "deep.py").exit_code == 0
    (finding,) = document("--select", "GL101", "deep.py")["findings"]
    assert finding["severity"] == "error"
    assert check("--fail-on", "error", "--select", "GL101", "deep.py").exit_code == 1


def test_the_finding_says_where_what_and_why_it_is_unverified(here: Path) -> None:
    (finding,) = document("--select", "GL101", "deep.py")["findings"]
    assert (finding["path"], finding["line"], finding["verdict"]) == ("deep.py", 5, "unverified")
    assert "--no-exec" in finding["verdict_reason"]
    assert finding["evidence"]["predicted_gradient_ratio"] < 1e-5
    assert {r["line"] for r in finding["related"]} >= {6, 12}


def test_a_missing_path_is_one_line_and_exit_2(here: Path) -> None:
    result = check("nowhere.py")
    assert result.exit_code == 2
    assert result.output == "error: nowhere.py: no such file or folder\n"


def test_a_wrong_option_value_is_exit_2(here: Path) -> None:
    assert check("--output-format", "papyrus", "deep.py").exit_code == 2
    wrong = check("--select", "GL999", "deep.py")
    assert wrong.exit_code == 2
    assert "--select: `GL999` means no rule" in wrong.output


def test_a_number_out_of_range_is_one_line_and_exit_2(here: Path) -> None:
    below = check("--seed", "-1", "deep.py")
    assert (below.exit_code, below.stderr) == (2, "error: --seed: expected `int` >= 0\n")
    (here / "own.toml").write_text("[tool.gradlint.rules.saturating-stack]\nminimum = -3\n")
    for command in ("check", "probe"):
        named = gradlint(command, "--config", "own.toml", "deep.py")
        said = "error: own.toml: tool.gradlint.rules.saturating-stack.minimum: expected `int` >= 1\n"
        assert (named.exit_code, named.stderr) == (2, said)


def test_a_wrong_value_in_the_configuration_is_exit_2(here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.gradlint]\noutput-format = 'papyrus'\n")
    said = check("deep.py").stderr
    assert said.startswith(
        "error: pyproject.toml: tool.gradlint.output-format: invalid enum value 'papyrus', expected "
    )
    assert said.endswith("`sarif`, `text`\n")
    assert check("--script-args", "'open", "deep.py").exit_code == 2


def test_wrong_configuration_is_one_line_and_exit_2(here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.gradlint]\nselec = 1\n")
    result = check("deep.py")
    assert result.exit_code == 2
    assert result.output.startswith("error: pyproject.toml: tool.gradlint.selec: unknown key")
    assert result.output.count("\n") == 1


def test_a_file_that_does_not_parse_is_a_finding(here: Path) -> None:
    (here / "old.py").write_text("import torch\nprint 'python 2'\n")
    found = document("old.py")["findings"]
    assert [(f["code"], f["line"], f["severity"], f["verdict"]) for f in found] == [("GL001", 2, "error", None)]


def test_what_older_python_alone_reads_is_told_and_checked_nonetheless(here: Path) -> None:
    text = (here / "deep.py").read_text() + "for x, y in loader:\n    x = x.cuda(async=True)\n"
    (here / "old.py").write_text(text)
    found = {f["code"]: f for f in document("--no-exec", "old.py")["findings"]}
    assert {"GL001", "GL101"} <= set(found)
    assert "keyword since Python 3.7" in found["GL001"]["message"]


UNREADABLE = {
    "binary.py": (b"import torch\0", "not a text file"),
    "utf16.py": ("import torch # ä".encode("utf-16"), "not a text file"),
    "latin1.py": (b"import torch  # \xe9t\xe9\n", "not valid UTF-8 and no other encoding declared (byte 16)"),
    "broken.ipynb": (b'{"cells": [', "not a notebook: it is not the JSON that Jupyter writes"),
    "list.ipynb": (b"[]", "not a notebook: it is not the JSON that Jupyter writes"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_an_error_if_named_and_skipped_if_met(here: Path, name: str) -> None:
    content, reason = UNREADABLE[name]
    (here / name).write_bytes(content)
    named = check("clean.py", name)
    assert (named.exit_code, named.stderr) == (2, f"error: {name}: {reason}\n")
    assert f"skipped {name}:1: {reason}\n" in named.stdout
    met = check("--fail-on", "error", "--select", "GL002")
    assert (met.exit_code, met.stderr) == (0, "") and f"skipped {name}:1: {reason}\n" in met.stdout


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("huge.py", b"import torch\n" + b"x = 1\n" * 800_000, "5 MB is larger than a hand-written source file"),
        (
            "r.ipynb",
            b'{"cells": [], "metadata": {"kernelspec": {"language": "R"}}}',
            "a notebook in R, not in Python",
        ),
    ],
)
def test_what_is_none_of_ours_is_left_out_even_if_named(here: Path, name: str, content: bytes, reason: str) -> None:
    (here / name).write_bytes(content)
    shown = check(name)
    assert (shown.exit_code, shown.stderr) == (0, "") and f"skipped {name}:1: {reason}\n" in shown.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(here: Path) -> None:
    os.mkfifo(here / "pipe.py")
    assert check("pipe.py").stderr == "error: pipe.py: not a regular file\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_beside_a_helper_is_not_waited_for(here: Path) -> None:
    os.mkfifo(here / "pipe.py")
    (here / "helper.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Linear(2, 2)\n\n\nnet = make()\n"
    )
    assert check("helper.py").exit_code == 0


def test_a_recurrent_net_without_layers_is_looked_at(here: Path) -> None:
    (here / "none.py").write_text("from torch import nn\n\nnet = nn.LSTM(3, 4, num_layers=0)\n")
    assert check("none.py").exit_code == 0


def test_a_file_that_nests_deeper_than_the_reader_is_left_out(here: Path) -> None:
    (here / "sum.py").write_text(f"{SIGMOIDS}x = {' + '.join(['1'] * 2500)}\n")
    shown = check("sum.py")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "skipped sum.py:1: nests deeper than gradlint reads\n" in shown.stdout


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything is readable here")
def test_a_file_without_the_right_to_read_it_is_an_error(here: Path) -> None:
    (here / "clean.py").chmod(0)
    assert check("clean.py").stderr == "error: clean.py: Permission denied\n"


@pytest.mark.parametrize("name", ["loop.py", "n" * 300 + ".py"])
def test_a_path_that_leads_nowhere_is_one_line(here: Path, name: str) -> None:
    (here / "loop.py").symlink_to("loop.py")
    shown = check(name)
    assert shown.exit_code == 2
    assert shown.stderr.startswith(f"error: {name}: ") and shown.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names are text here")
@pytest.mark.parametrize("form", ["text", "json", "sarif", "gitlab", "rdjson"])
def test_a_name_that_is_no_utf_8_is_shown_as_far_as_it_is(here: Path, form: str) -> None:
    (here / "odd").mkdir()
    (here / "odd" / os.fsdecode(b"\xff.py")).write_text(SIGMOIDS)
    shown = CliRunner().invoke(cli, ["check", "--no-exec", "--output-format", form, "odd"])
    assert shown.exit_code == 1
    assert "\ufffd.py" in shown.stdout or "%EF%BF%BD.py" in shown.stdout


def test_a_link_to_nothing_is_an_error_and_a_folder_without_python_a_warning(here: Path) -> None:
    (here / "link.py").symlink_to("gone.py")
    assert (check("link.py").exit_code, check("link.py").stderr) == (2, "error: link.py: a link to nothing\n")
    (here / "empty").mkdir()
    empty = check("empty")
    assert (empty.exit_code, empty.stderr) == (0, "warning: no Python files or notebooks found\n")
    assert empty.stdout.startswith("No findings in 0 files, ")


def test_a_comment_suppresses_and_an_unused_one_is_reported(here: Path) -> None:
    lines = SIGMOIDS.splitlines()
    lines[4] += "  # gradlint: ignore[saturating-stack] -- on purpose"
    lines[0] += "  # noqa: GL101"
    (here / "deep.py").write_text("\n".join(lines) + "\n")
    found = document("--select", "GL101,GL002", "deep.py")["findings"]
    assert [(f["code"], f["line"]) for f in found] == [("GL002", 1)]


def test_standard_input_stands_for_a_file(here: Path) -> None:
    found = document("--stdin-filename", "editor.py", stdin=SIGMOIDS)["findings"]
    assert {f["path"] for f in found} == {"editor.py"}
    assert document("--stdin-filename", "editor.py", "-", stdin=SIGMOIDS)["findings"] == found
    assert {f["path"] for f in document("-", stdin=SIGMOIDS)["findings"]} == {"-"}
    excluded = check("--stdin-filename", "build/editor.py", "--force-exclude", stdin=SIGMOIDS)
    assert (excluded.exit_code, excluded.stderr) == (0, "warning: no Python files or notebooks found\n")


def test_standard_input_is_fixed_on_standard_output_and_the_file_left_alone(here: Path) -> None:
    text = registry()["GL401"].BAD
    (here / "rnn.py").write_text("# another text\n" + text)
    piped = check("--fix", "--select", "GL401,GL002", "--stdin-filename", "rnn.py", stdin=text)
    clip = "    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\n    optimizer.step()\n"
    assert (piped.exit_code, piped.stdout) == (0, text.replace("    optimizer.step()\n", clip))
    assert "\nNo findings in 1 file, " in piped.stderr
    assert (here / "rnn.py").read_text() == "# another text\n" + text
    assert check("--fix", "--stdin-filename", "clean.py", stdin=CLEAN).stdout == CLEAN
    assert check("--add-ignore", "-", stdin=text).exit_code == 2


def test_a_notebook_is_checked_cell_by_cell(here: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# title"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "import torch\n", "from torch import nn"]},
        {"cell_type": "code", "source": SIGMOIDS.split("\n\n", 1)[1].splitlines(keepends=True)},
    ]
    (here / "nb.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    (finding,) = document("--select", "GL101", "nb.ipynb")["findings"]
    assert (finding["cell"], finding["line"]) == (2, 2)
    shown = check("--select", "GL101", "nb.ipynb").output
    assert "nb.ipynb#cell2:2:" in shown and "nn.Linear(64, 64), nn.Sigmoid()," in shown


def test_a_folder_is_searched_and_order_is_stable(here: Path) -> None:
    found = document(".")
    assert found["summary"]["files"] == 2
    assert found["findings"] == document("deep.py", "clean.py", "deep.py")["findings"]


def test_a_class_that_another_file_constructs_is_not_told_as_skipped(here: Path) -> None:
    (here / "nets.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = nn.Linear(4, 2)\n\n    def forward(self, x):\n        return self.fc(x)\n"
    )
    (here / "train.py").write_text(
        "import torch\nfrom nets import Net\n\nnet = Net()\ntorch.optim.SGD(net.parameters(), lr=0.1)\n"
    )
    alone = document("nets.py")["skipped"]
    assert [s["reason"] for s in alone] == ["`Net` is defined but not constructed here"]
    assert document("nets.py", "train.py")["skipped"] == []


CLASS_AND_TRAINER = (
    "import torch\nfrom torch import nn\n\n"
    "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.body = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(8, 8), nn.Sigmoid())])\n\n"
    "    def forward(self, x):\n        return self.body(x)\n\n"
    "def fit(net):\n    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)\n"
    "    net(torch.randn(4, 8)).sum().backward()\n    optimizer.step()\n"
)


def test_a_class_is_judged_in_its_own_file_where_the_file_that_constructs_it_is_not_checked(here: Path) -> None:
    (here / "nets.py").write_text(CLASS_AND_TRAINER)
    (here / "main.py").write_text("from nets import Net, fit\n\nfit(Net())\n")
    assert "GL101" in [f["code"] for f in document("nets.py")["findings"]]
    assert [f["code"] for f in document("nets.py", "main.py")["findings"]].count("GL101") == 1


def test_a_class_that_nothing_constructs_is_judged_beside_a_trainer_that_takes_any_model(here: Path) -> None:
    (here / "nets.py").write_text(CLASS_AND_TRAINER)
    assert "GL101" in [f["code"] for f in document("nets.py")["findings"]]


def test_the_report_goes_to_a_file(here: Path) -> None:
    result = check("--output-format", "json", "-o", "report.json", "deep.py")
    assert result.output == ""
    assert json.loads((here / "report.json").read_text())["version"] == 1


@pytest.mark.parametrize("form", ["text", "concise", "json", "github", "gitlab", "sarif", "junit", "markdown"])
def test_every_format_names_the_finding(here: Path, form: str) -> None:
    result = check("--output-format", form, "deep.py")
    assert result.exit_code == 1
    assert "GL101" in result.output


def test_fix_writes_and_diff_does_not(here: Path) -> None:
    text = next(r for r in registry().values() if r.code == "GL401").BAD
    (here / "rnn.py").write_text(text)
    diff = check("--diff", "--select", "GL401", "rnn.py").output
    assert "+    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)" in diff
    assert (here / "rnn.py").read_text() == text
    assert check("--fix", "--select", "GL401", "rnn.py").exit_code == 0
    assert check("--select", "GL401", "rnn.py").exit_code == 0


def test_explain_lists_and_documents_every_rule() -> None:
    table = gradlint("explain").output
    for code, rule in registry().items():
        assert code in table
        shown = gradlint("explain", code)
        assert shown.exit_code == 0
        assert rule.name in shown.output and "What it does" in shown.output
    assert gradlint("explain", "saturating-stack").output == gradlint("explain", "gl101").output


def test_the_name_given_to_standard_input_may_be_a_circle_of_links(here: Path) -> None:
    (here / "one.py").symlink_to(here / "two.py")
    (here / "two.py").symlink_to(here / "one.py")
    result = check("-", "--stdin-filename", str(here / "one.py"), stdin="import torch\n")
    assert result.exit_code == 2
    assert result.output == f"error: {here / 'one.py'}: its links go round in a circle\n"


def test_explain_of_a_family_lists_its_rules() -> None:
    result = gradlint("explain", "gl4")
    assert result.exit_code == 0
    assert {code for code in registry() if code in result.output} == {c for c in registry() if c.startswith("GL4")}


def test_explain_of_no_rule_is_exit_2() -> None:
    result = gradlint("explain", "saturating-stak")
    assert result.exit_code == 2
    assert "did you mean `saturating-stack`?" in result.output


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_check_never_imports_torch_in_its_own_process(here: Path) -> None:
    code = """if True:
        import sys
        from click.testing import CliRunner
        from gradlint.cli import cli
        result = CliRunner().invoke(cli, ["check", "deep.py", "--seeds", "1"])
        assert result.exit_code == 1, result.output
        print(sorted(m for m in sys.modules if m.split(".")[0] in ("torch", "numpy")))
    """
    assert run(code).strip() == "[]"


def test_the_same_bytes_under_any_hash_seed(here: Path) -> None:
    code = """if True:
        from click.testing import CliRunner
        from gradlint.cli import cli
        print(CliRunner().invoke(cli, ["check", "--no-exec", "--output-format", "sarif", "."]).output)
    """
    assert run(code, PYTHONHASHSEED="1") == run(code, PYTHONHASHSEED="2")


@pytest.mark.torch
def test_a_device_that_cannot_be_used_is_said_once(here: Path) -> None:
    pytest.importorskip("torch")
    code = ["--select", "GL101", "--seeds", "1", "--device", "cuda:99", "--output-format", "json", "deep.py"]
    notes = json.loads(gradlint("check", *code).output)["notes"]
    assert [n.startswith("device cuda:99 cannot be used") and n.endswith("measured on the CPU") for n in notes] == [
        True
    ]
