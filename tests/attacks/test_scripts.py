"""Calibration scripts that fail, leave, print, or change the process that they run in."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.attacks.attack import Attack, attacks
from tests.attacks.pair import RUN, write_pair
from tests.command_line import Cli

GOOD = "def feeds():\n    rng = np.random.default_rng(0)\n    return (rng.normal(size=(32, 6)) for _ in range(4))\n"


def script(text: str, *options: str) -> Callable[[Path], Sequence[object]]:
    """A merge on the data of a script that says so."""

    def build(folder: Path) -> Sequence[object]:
        write_pair(folder)
        (folder / "s.py").write_text(f"import os, sys\nimport numpy as np\n{text}", encoding="utf-8")
        return [*RUN, "--calib", "s.py:feeds", *options]

    return build


def recipe(*options: str) -> Callable[[Path], Sequence[object]]:
    """A recipe, which may be anybody's, that names a script."""

    def build(folder: Path) -> Sequence[object]:
        script(GOOD)(folder)
        (folder / "r.yaml").write_text(
            "models: [a.onnx, b.onnx]\nmethod: act-align\ncalibration: {data: 's.py:feeds'}\noutput: m.onnx\n"
        )
        return ["run", "r.yaml", *options]

    return build


def body(text: str) -> str:
    return f"def feeds():\n    {text}\n"


def reader(text: str) -> str:
    return f"class feeds:\n    def rewind(self): pass\n    def get_next(self):\n        {text}\n"


def instead(make: Callable[[Path], object]) -> Callable[[Path], Sequence[object]]:
    """A merge on a script that is no file."""

    def build(folder: Path) -> Sequence[object]:
        write_pair(folder)
        make(folder / "s.py")
        return [*RUN, "--calib", "s.py:feeds"]

    return build


@attacks(
    Attack("exit at import", script("sys.exit(0)"), says=("s.py", "ended with exit code 0")),
    Attack("exit in the function", script(body("sys.exit(0)")), says=("s.py:feeds", "ended with exit code 0")),
    Attack("exit in a reader", script(reader("sys.exit('done')")), says=("ended with exit code 'done'",)),
    Attack("exit in a generator", script(body("yield np.zeros((1, 6)); sys.exit()")), says=("exit code None",)),
    Attack("interrupt", script(body("raise KeyboardInterrupt")), says=("s.py:feeds raised KeyboardInterrupt",)),
    Attack("interrupt at import", script("raise KeyboardInterrupt"), says=("raised KeyboardInterrupt",)),
    Attack("generator exit", script(reader("raise GeneratorExit")), says=("raised GeneratorExit",)),
    Attack("stop", script(reader("raise StopIteration")), says=("s.py:feeds raised",)),
    Attack("recursion", script("def feeds(): return feeds()"), says=("raised RecursionError",)),
    Attack("memory", script(body("raise MemoryError")), says=("raised MemoryError",)),
    Attack("too much memory", script(body("return [np.zeros(2**60)]")), says=("s.py:feeds raised",)),
    Attack("many lines", script(body(r"raise ValueError('a\nb' * 1000)")), says=("raised ValueError: a ba b",)),
    Attack("control codes", script(body(r"raise ValueError('\x1b[2J')")), says=(r"raised ValueError: \x1b[2J",)),
    Attack(
        "an exception that cannot speak",
        script("class E(Exception):\n    def __str__(self): raise E\n" + body("raise E")),
        says=("raised E: E",),
    ),
    Attack("syntax", script("def"), says=("s.py raised SyntaxError",)),
    Attack("NUL bytes", script("\0"), says=("s.py raised",)),
    Attack("no module", script("import nothing_of_that_name"), says=("raised ModuleNotFoundError",)),
    Attack("no function", script(""), says=("defines no function 'feeds'",)),
    Attack("no data", script(body("return []")), says=("holds no samples",)),
    Attack("nothing", script(body("return None")), says=("found NoneType",)),
    Attack("text", script(body("return ['abc']")), says=("s.py:feeds", "'x'")),
    Attack("ragged", script(body("return [[[1, 2], [3]]]")), says=("s.py:feeds raised ValueError",)),
    Attack("objects", script(body("return [np.array([None] * 6)]")), says=("s.py:feeds", "'x'")),
    Attack("wrong shape", script(body("return [np.zeros((2, 7))]")), says=("s.py:feeds", "2x7")),
    Attack("NaN", script(body("return [np.full((2, 6), np.nan)]")), says=("s.py:feeds", "'x'", "NaN")),
    Attack("missing", instead(lambda _: None), says=("s.py", "no such file")),
    Attack("pipe", instead(os.mkfifo), says=("s.py", "is a pipe")),
    Attack("folder", instead(Path.mkdir), says=("s.py", "is a folder")),
    Attack("device", instead(lambda path: path.symlink_to("/dev/zero")), says=("s.py", "is a device")),
)
def test_scripts_that_fail(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


NOISE = "np.random.default_rng(0).normal(size=(99, 6))"
CHANGES = {
    "moves": f"os.chdir('/')\n{GOOD}",
    "moves in the function": body(f"os.chdir('/'); yield {NOISE}"),
    "moves in a reader": f"class feeds:\n    def __init__(self): self.left = [{NOISE}]\n"
    "    def get_next(self): os.chdir('/'); return self.left.pop() if self.left else None\n",
    "relies on where it moved": f"os.chdir('/')\n{GOOD}".replace(
        "    return", "    assert os.getcwd() == '/'\n    return"
    ),
    "NumPy raises": f"np.seterr(all='raise')\n{GOOD}",
    "warnings raise": f"import warnings\nwarnings.simplefilter('error')\n{GOOD}",
    "takes the standard output away": f"sys.stdout = None\n{GOOD}",
    "takes the interrupt away": f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{GOOD}",
    "dataclass": f"from dataclasses import dataclass\n@dataclass\nclass A:\n    a: 'int'\n{GOOD}",
    "thread": "import queue, threading\n"
    + body(
        "q = queue.Queue()\n"
        f"    threading.Thread(target=lambda: [q.put(x) for x in ({NOISE}, None)]).start()\n"
        "    return iter(q.get, 'end') if q is None else iter([q.get()])"
    ),
    "one buffer": f"class feeds:\n    rows, at, buffer = {NOISE}, -1, np.zeros((1, 6))\n    def get_next(self):\n"
    "        self.at += 1\n        if self.at == 99: return None\n"
    "        self.buffer[:] = self.rows[self.at]\n        return self.buffer\n",
}


@attacks(*(Attack(name, script(text), exit_code=0, writes=("m.onnx",)) for name, text in CHANGES.items()))
def test_scripts_that_change_the_process(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    ended = attack.check(tmp_path, cli)
    assert not ended.stdout + ended.stderr
    assert Path.cwd() == tmp_path
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_script_prints_goes_to_standard_error(tmp_path: Path, cli: Cli) -> None:
    attack = Attack(
        "prints",
        script(GOOD.replace("    rng", "    print('hello'); os.system('echo from a process')\n    rng")),
        0,
        writes=("m.onnx",),
    )
    ended = attack.check(tmp_path, cli)
    assert not ended.stdout
    assert "hello" in ended.stderr
    assert "from a process" in ended.stderr


def test_an_interrupt_of_the_users_goes_through_whatever_the_script_makes_of_it(tmp_path: Path, cli: Cli) -> None:
    kill = "os.kill(os.getpid(), __import__('signal').SIGINT)"
    for text in (
        body(f"{kill}; yield {NOISE}"),
        body(f"\n    try: {kill}; __import__('time').sleep(9)\n    except BaseException: sys.exit(0)"),
        body(f"\n    try: {kill}; __import__('time').sleep(9)\n    except BaseException: pass\n    return [{NOISE}]"),
    ):
        ended = cli(*script(text)(tmp_path))
        assert (ended.returncode, ended.stderr.strip()) == (130, "interrupted; nothing was written")


def test_a_script_without_end_is_bounded_and_says_so(tmp_path: Path, cli: Cli) -> None:
    text = "def feeds():\n    while True:\n        yield np.random.normal(size=(64, 6))\n"
    attack = Attack(
        "for ever",
        lambda folder: [each for each in script(text, "--repair", "none")(folder) if each != "-q"],
        exit_code=0,
        says=("only its first 16,384 samples were used; --samples says how many",),
        writes=("m.onnx",),
        apart=True,
    )
    attack.check(tmp_path, cli)


@attacks(
    Attack("unasked", recipe(), 2, ("r.yaml: 's.py:feeds' is a script", "--allow-scripts")),
    Attack("allowed", recipe("--allow-scripts"), 0, writes=("m.onnx",)),
    Attack("other data on the command line", recipe("--calib", "s.py:feeds"), 0, writes=("m.onnx",)),
)
def test_scripts_in_recipes(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
