"""Change the code at random, as mutmut does, and count the changes that the tests notice.

    python tests/mutants.py --count 200 --seed 27     # takes half an hour

mutmut writes all its mutants beside the code into mutants/ (settings: pyproject.toml); a sample of
them is drawn by chance. Left out are those that change

    wording alone: a text with a space in it, and what stands in a raise, a notice, a progress bar
        or a help text
    nothing: another spelling of a codec, what only asserts (strict=), a hint for speed
        (non_blocking=)

Every test runs once as it is, which tells what it calls, and then once for each mutant of that
which no test before it noticed, in a fork: all that fixtures have made is there already. `mutmut
run` comes to the same, but collects and prepares anew for every mutant. Mutants are not active in
scripts that tests start.

The sample, what noticed each and what nothing noticed go to mutants/sample.json as they come: the
same command goes on after an interruption, if neither code nor tests have changed.
"""

from __future__ import annotations

import argparse
import ast
import codecs
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # threads of OpenMP do not live on in a fork

import pytest  # noqa: E402
from _pytest.runner import runtestprotocol  # noqa: E402

TEXTS = {"help", "description", "epilog", "desc", "unit", "metavar"}
NOTHING = {"strict", "non_blocking"}
SPEAKERS = {"print", "notice", "progress", "write", "Damage", "ArgumentParser"}
SLOW = 2.0  # seconds; a test beyond runs for a mutant only if none before it did


def generate() -> dict[str, Path]:
    """Have mutmut write its mutants; return their names with the files."""
    from mutmut import __main__ as mutmut

    mutmut.set_mutant_under_test("mutant_generation")
    Path("mutants").mkdir(exist_ok=True)
    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.create_mutants(os.cpu_count())
    metas = sorted(Path("mutants").rglob("*.py.meta"))
    return {
        name: meta.with_suffix("")
        for meta in metas
        for name in json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
    }


def difference(a: object, b: object, above: tuple = ()) -> tuple | None:
    """Return the first parts of two syntax trees that differ and the nodes above them."""
    if isinstance(a, ast.AST) and type(a) is type(b):
        pairs = [(value, getattr(b, field)) for field, value in ast.iter_fields(a)]
        above = (*above, a)
    elif isinstance(a, list) and len(a) == len(b):
        pairs = zip(a, b, strict=True)
    else:
        return None if a == b else (a, b, above)
    return next(filter(None, (difference(x, y, above) for x, y in pairs)), None)


def is_wording(original: ast.FunctionDef, mutant: ast.FunctionDef) -> bool:
    """Whether a mutant does the same, by the rules above."""
    found = difference([original.args, original.body], [mutant.args, mutant.body])
    if found is None:
        return True
    a, b, above = found
    if isinstance(a, list) and isinstance(b, list):  # an argument is gone
        gone = {getattr(x, "arg", None) for x in a} - {getattr(x, "arg", None) for x in b}
        if gone & (TEXTS | NOTHING):
            return True
    for node in above:
        name = getattr(node, "func", None)
        if (
            isinstance(node, ast.Raise)
            or getattr(name, "attr", getattr(name, "id", None)) in SPEAKERS
            or (isinstance(node, ast.keyword) and node.arg in TEXTS | NOTHING)
        ):
            return True
    texts = [getattr(x, "value", x) for x in (a, b)]
    return isinstance(texts[0], str) and (" " in texts[0] or codec(texts[0]) == codec(texts[1]))


def codec(name: object) -> object:
    """Return the proper name of a codec; what is none is itself."""
    try:
        return codecs.lookup(name).name
    except (LookupError, TypeError, ValueError):
        return name


def draw(mutants: dict[str, Path], count: int, seed: int) -> list[str]:
    """Draw mutants that are more than wording."""
    functions = {}
    for path in set(mutants.values()):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        functions[path] = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    pool = []
    for name, path in sorted(mutants.items()):
        short = name.rpartition(".")[2]
        original = functions[path][short.rpartition("__mutmut_")[0] + "__mutmut_orig"]
        if not is_wording(original, functions[path][short]):
            pool.append(name)
    print(f"{len(mutants):,} mutants, {len(pool):,} of them more than wording")
    return random.Random(seed).sample(pool, min(count, len(pool)))


class Trial:
    """A pytest plugin that runs every test for the mutants of what it calls.

    `kept` is the file of results; what it holds of the same sample, code and tests counts.
    """

    def __init__(self, sample: list[str], kept: Path) -> None:
        from mutmut.utils.format_utils import mangled_name_from_mutant_name

        content = hashlib.sha256(" ".join(sample).encode())
        for path in sorted(Path().rglob("*.py")):
            content.update(path.read_bytes())
        self.kept, self.digest = kept, content.hexdigest()
        before = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
        if before.get("digest") != self.digest:
            before = {"caught": {}, "alive": {name: [] for name in sample}}
        self.caught: dict[str, str] = before["caught"]  # by which test
        self.alive: dict[str, list[str]] = before["alive"]  # tests that have not noticed it
        self.of: dict[str, list[str]] = {}
        for name in sample:
            self.of.setdefault(mangled_name_from_mutant_name(name), []).append(name)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        from mutmut.mutation.trampoline import set_mutant_under_test
        from mutmut.state import state

        called = state()._stats
        called.clear()
        set_mutant_under_test("stats")  # the functions write their names down
        began = time.process_time()
        # By the name of its parent as the next item, fixtures of modules and sessions stay.
        reports = runtestprotocol(item, log=False, nextitem=item.parent)
        took = time.process_time() - began
        set_mutant_under_test("")
        if any(report.failed for report in reports):
            print(f"left out, fails by itself: {item.nodeid}", file=sys.stderr)
            called.clear()
        for name in [name for function in called for name in self.of.get(function, ())]:
            tried = self.alive.get(name, [item.nodeid])
            if item.nodeid not in tried and (took < SLOW or not tried):
                if self.notices(item, name, 20 + 15 * took):
                    self.caught[name] = item.nodeid
                    del self.alive[name]
                else:
                    tried.append(item.nodeid)
                self.keep()
        item.session._setupstate.teardown_exact(nextitem)
        return True

    def keep(self) -> None:
        """Write the results down."""
        result = {"digest": self.digest, "caught": self.caught, "alive": self.alive}
        temporary = self.kept.with_suffix(".part")
        temporary.write_text(json.dumps(result, ensure_ascii=False, indent=1), "utf-8")
        os.replace(temporary, self.kept)

    def notices(self, item: pytest.Item, name: str, limit: float) -> bool:
        """Whether a test fails, or takes beyond `limit` seconds, with a mutant."""
        pid = os.fork()
        if pid == 0:
            failed = True
            try:
                os.setpgid(0, 0)
                nothing = os.open(os.devnull, os.O_RDWR)
                os.dup2(nothing, 1), os.dup2(nothing, 2)
                from mutmut.mutation.trampoline import set_mutant_under_test

                set_mutant_under_test(name)
                reports = runtestprotocol(item, log=False, nextitem=item.parent)
                failed = any(report.failed for report in reports)
            finally:
                os._exit(failed)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status != 0
            time.sleep(0.005)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=240, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("tests", nargs="*", help="default: those named in pyproject.toml")
    given = parser.parse_args()
    from mutmut.configuration import config

    settings = config()
    sample = draw(generate(), given.count, given.seed)
    os.chdir("mutants")
    here = Path.cwd()
    sys.path[:] = [str(here), *(p for p in sys.path if Path(p).resolve() != here.parent)]
    import torch

    torch.set_num_threads(1)
    trial = Trial(sample, Path("sample.json"))
    tests = given.tests or settings.pytest_add_cli_args_test_selection
    pytest.main(["--rootdir=.", *settings.pytest_add_cli_args, *tests], plugins=[trial])
    for name, tried in sorted(trial.alive.items()):
        print(f"{name}: {f'{len(tried)} tests' if tried else 'no test calls it'}")
    share = len(trial.caught) / len(sample)
    error = (share * (1 - share) / len(sample)) ** 0.5
    print(f"{len(trial.caught)} of {len(sample)} caught: {share:.1%} (standard error {error:.1%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
