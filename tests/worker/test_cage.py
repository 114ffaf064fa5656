"""Hostile scripts: each costs one clear line, the next model is built, nothing outside changes and no process stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradlint.worker.client import WorkerPool, find_torch
from gradlint.worker.protocol import Built, Failed, Limits, ModelJob, Slice

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(find_torch() is None, reason="needs torch"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's part is Linux's"),
]

GOOD = "import torch.nn as nn\nnet = nn.Linear(3, 2)\n"


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool() as opened:
        yield opened


def build(pool: WorkerPool, folder: Path, text: str, seconds: float = 20.0, memory: int = 2 << 30) -> Built | Failed:
    script = folder / "project" / "train.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(text)
    sliced = Slice(path=str(script), root=str(script.parent), text=text, target="net")
    with pool.open(ModelJob(sliced, limits=Limits(seconds=seconds, memory=memory))) as session:
        return session.built


def assert_server_lives(pool: WorkerPool, folder: Path) -> None:
    assert isinstance(build(pool, folder, GOOD), Built)


def descendants() -> list[int]:
    """Pids below this process."""
    found, stack = [], [os.getpid()]
    while stack:
        for task in Path(f"/proc/{stack.pop()}/task").glob("*/children"):
            pids = [int(p) for p in task.read_text().split()]
            found += pids
            stack += pids
    return found


def test_a_plain_model_is_built_under_all_guarantees(pool: WorkerPool, tmp_path: Path) -> None:
    built = build(pool, tmp_path, GOOD)
    assert isinstance(built, Built), built
    # CUDA's driver listens on a local socket.
    sockets = "seccomp: no network" if Path("/dev/nvidiactl").exists() else "seccomp: no sockets"
    assert {"landlock: files", "seccomp: no processes", sockets} <= set(built.guarantees)


ENDINGS = {
    "os._exit": ("import os\nos._exit(3)\n", "exit code 3"),
    "segfault": ("import ctypes\nctypes.string_at(0)\n", "SIGSEGV"),
    "abort": ("import os\nos.abort()\n", "SIGABRT"),
    "sys.exit": ("class Net:\n    def __init__(self):\n        raise SystemExit(9)\nnet = Net()\n", "SystemExit: 9"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_code_that_ends_its_process_costs_one_line(pool: WorkerPool, tmp_path: Path, name: str) -> None:
    text, reason = ENDINGS[name]
    failed = build(pool, tmp_path, text)
    assert isinstance(failed, Failed)
    assert reason in failed.reason
    assert "\n" not in failed.reason
    assert failed.traceback is None
    assert_server_lives(pool, tmp_path)


def test_an_endless_constructor_meets_the_time_limit(pool: WorkerPool, tmp_path: Path) -> None:
    text = "class Net:\n    def __init__(self):\n        while True: pass\nnet = Net()\n"
    started = time.monotonic()
    failed = build(pool, tmp_path, text, seconds=2.0)
    assert isinstance(failed, Failed) and failed.stage == "limit"
    assert "2 s" in failed.reason
    assert time.monotonic() - started < 15
    assert_server_lives(pool, tmp_path)


def test_ignoring_signals_and_leaving_threads_behind_keeps_nothing_alive(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "import signal, threading, time\n"
        "for n in range(1, 32):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "threading.Thread(target=lambda: time.sleep(1000)).start()\n"
        "while True: time.sleep(1)\n"
    )
    before = len(descendants())
    failed = build(pool, tmp_path, text, seconds=2.0)
    assert isinstance(failed, Failed) and failed.stage == "limit"
    assert len(descendants()) <= max(before, 1)


def test_memory_that_is_really_used_meets_the_limit(pool: WorkerPool, tmp_path: Path) -> None:
    text = "held = []\nwhile True: held.append(bytearray(b'x') * (16 << 20))\n"
    failed = build(pool, tmp_path, text, memory=400 << 20)
    assert isinstance(failed, Failed) and failed.stage == "limit", failed
    assert "memory" in failed.reason
    assert_server_lives(pool, tmp_path)


def test_a_model_of_a_hundred_gigabytes_is_built_without_its_memory(pool: WorkerPool, tmp_path: Path) -> None:
    text = "from torch import nn\nnet = nn.Sequential(nn.Linear(160_000, 160_000), nn.ReLU(), nn.Linear(160_000, 2))\n"
    built = build(pool, tmp_path, text, memory=400 << 20)
    assert isinstance(built, Built), built


def attempt(statement: str, imports: str = "import os") -> str:
    """A script that tries something, prints whether it worked, and has a model."""
    return (
        f"{imports}\ntry:\n    {statement}\n    print('DONE')\nexcept BaseException as e:\n"
        f"    print('REFUSED', type(e).__name__)\n{GOOD}"
    )


FORBIDDEN = {
    "fork": attempt("os.fork()"),
    "fork through ctypes": attempt(
        "pid = ctypes.CDLL(None, use_errno=True).fork()\n    assert pid >= 0", "import ctypes"
    ),
    "subprocess": attempt("subprocess.run(['true'])", "import subprocess"),
    "system": attempt("assert os.system('true') == 0"),
    "system through ctypes": attempt("assert ctypes.CDLL(None).system(b'true') == 0", "import ctypes"),
    "multiprocessing": attempt("multiprocessing.Process(target=print).start()", "import multiprocessing"),
    "socket": attempt("socket.socket()", "import socket"),
    "socket through ctypes": attempt("assert ctypes.CDLL(None).socket(2, 1, 0) >= 0", "import ctypes"),
    "download": attempt("urllib.request.urlopen('http://127.0.0.1:9')", "import urllib.request"),
    "kill the parent": attempt("os.kill(os.getppid(), 0)"),
    "ptrace": attempt("assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0", "import ctypes, os"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_process_no_network_no_signal(pool: WorkerPool, tmp_path: Path, name: str) -> None:
    built = build(pool, tmp_path, FORBIDDEN[name])
    assert isinstance(built, Built), built
    assert built.output.startswith("REFUSED"), built.output


def test_a_fork_bomb_is_one_process(pool: WorkerPool, tmp_path: Path) -> None:
    before = len(descendants())
    text = "import ctypes\nfork = ctypes.CDLL(None).fork\nfor _ in range(1000): fork()\n" + GOOD
    assert isinstance(build(pool, tmp_path, text), Built)
    assert len(descendants()) <= max(before, 1)


WRITES = {
    "write": "open({path!r}, 'w').write('x')",
    "truncate": "os.truncate({path!r}, 0)",
    "remove": "os.remove({path!r})",
    "rename": "os.rename({path!r}, {path!r} + '2')",
    "chmod": "os.chmod({path!r}, 0)",
    "rm -rf": "shutil.rmtree(os.path.dirname({path!r}))",
    "open through ctypes": "assert ctypes.CDLL(None).open({path!r}.encode(), 0o1 | 0o100, 0o600) >= 0",
    "unlink through ctypes": "assert ctypes.CDLL(None).unlink({path!r}.encode()) == 0",
    "chmod through ctypes": "assert ctypes.CDLL(None).chmod({path!r}.encode(), 0) == 0",
}


@pytest.mark.parametrize("place", ["project", "elsewhere"])
@pytest.mark.parametrize("name", WRITES)
def test_nothing_outside_the_scratch_folder_changes(pool: WorkerPool, tmp_path: Path, name: str, place: str) -> None:
    kept = tmp_path / place / "results.txt"
    kept.parent.mkdir()
    kept.write_text("years of work")
    mode = kept.stat().st_mode
    text = attempt(WRITES[name].format(path=str(kept)), "import os, shutil, ctypes")
    built = build(pool, tmp_path, text)
    assert isinstance(built, Built), built
    assert built.output.startswith("REFUSED"), built.output
    assert kept.read_text() == "years of work"
    assert kept.stat().st_mode == mode


def test_its_own_scratch_folder_may_be_written_and_is_gone_afterwards(pool: WorkerPool, tmp_path: Path) -> None:
    text = "import os\nopen('checkpoint.bin', 'w').write('x')\nos.makedirs('runs/a')\nprint(os.getcwd())\n" + GOOD
    built = build(pool, tmp_path, text)
    assert isinstance(built, Built), built
    assert not Path(built.output.strip()).exists()


SECRETS = ["home/.ssh/id_rsa", "home/.aws/credentials", "home/.netrc", "project/.env", "project/deep/down/.env"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("way", ["open", "ctypes"])
def test_planted_secrets_are_not_read(pool: WorkerPool, tmp_path: Path, secret: str, way: str) -> None:
    path = tmp_path / secret
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("hunter2")
    statement = {
        "open": f"print(open({str(path)!r}).read())",
        "ctypes": f"fd = ctypes.CDLL(None).open({str(path)!r}.encode(), 0); assert fd >= 0; print(os.read(fd, 99))",
    }[way]
    built = build(pool, tmp_path, attempt(statement, "import os, ctypes"))
    assert isinstance(built, Built), built
    assert built.output.startswith("REFUSED"), built.output
    assert "hunter2" not in built.output


def test_tokens_are_not_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_API_KEY", "WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "hunter2")
    with WorkerPool() as pool:
        built = build(pool, tmp_path, "import os\nprint(dict(os.environ))\n" + GOOD)
    assert isinstance(built, Built), built
    assert "hunter2" not in built.output


def test_huge_output_is_cut(pool: WorkerPool, tmp_path: Path) -> None:
    built = build(pool, tmp_path, "import os\nprint('x' * 50_000_000)\nos.write(1, b'y' * 1_000_000)\n" + GOOD)
    assert isinstance(built, Built), built
    assert len(built.output) < 5000
    assert "more characters" in built.output


def test_patching_torch_stays_in_its_own_job(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "import torch\ndef broken(*a, **k): raise RuntimeError('patched')\ntorch.nn.Module.__init__ = broken\n" + GOOD
    )
    failed = build(pool, tmp_path, text)
    assert isinstance(failed, Failed)
    assert "patched" in failed.reason
    assert_server_lives(pool, tmp_path)


def test_forged_answers_are_rejected(pool: WorkerPool, tmp_path: Path) -> None:
    text = "import os, json\nos.write(3, json.dumps({'type': 'Built', 'graph': 7}).encode() + b'\\n')\n" + GOOD
    failed = build(pool, tmp_path, text)
    assert isinstance(failed, Failed)
    assert "unreadable answer" in failed.reason


def test_this_process_never_imports_torch_and_leaves_no_process(tmp_path: Path) -> None:
    import subprocess

    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, " + repr(str(Path(__file__).parent)) + ")\n"
        "from test_cage import GOOD, build, descendants\nfrom gradlint.worker.client import WorkerPool\n"
        "with WorkerPool() as pool: print(type(build(pool, Path(sys.argv[1]), GOOD)).__name__)\n"
        "assert 'torch' not in sys.modules\nprint(descendants())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["Built", "[]"], done.stderr


def test_the_sockets_of_a_graphics_driver_reach_nobody() -> None:
    """With graphics cards local sockets may listen; none of them connects, and no other kind is made."""
    code = (
        "import socket\nfrom gradlint.worker import seccomp\nassert 'no network' in seccomp.restrict(listening=True)\n"
        "heard = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\nheard.bind(''), heard.listen()\n"
        "refused = 0\n"
        "def tried(what):\n"
        "    global refused\n"
        "    try:\n        what()\n    except PermissionError:\n        refused += 1\n"
        "tried(lambda: socket.socket(socket.AF_UNIX).connect(heard.getsockname()))\n"
        "tried(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))\n"
        "tried(lambda: socket.socket(socket.AF_INET))\n"
        "tried(lambda: __import__('os').fork())\nprint(refused)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.returncode) == ("4", 0), ran.stderr


def test_a_cuda_driver_can_name_its_threads(tmp_path: Path) -> None:
    # The driver opens comm of each of its threads as C does for "wb", and where it cannot there is no CUDA.
    code = (
        "import ctypes, sys, threading\nfrom gradlint.worker import cage\n"
        "cage._cards = lambda: ['/dev/nvidia0']\n"
        "made = cage.enter(sys.argv[1], sys.argv[1], sys.argv[1] + '/train.py', graphics=True)\n"
        "fopen = ctypes.CDLL(None).fopen\nfopen.restype = ctypes.c_void_p\nopened = []\n"
        "def names_itself():\n"
        "    path = f'/proc/self/task/{threading.get_native_id()}/comm'\n"
        "    opened.append(bool(fopen(path.encode(), b'wb')))\n"
        "thread = threading.Thread(target=names_itself)\nthread.start()\nthread.join()\n"
        "print('landlock: files' in made.guarantees, *opened, bool(fopen(b'/proc/self/oom_score_adj', b'wb')))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["True", "True", "False"], ran.stderr
