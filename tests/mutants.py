"""Whether the tests of the budget find faults: the scripts are spoilt in one place at a time, and they have to notice: those of waiting, of named
accounts and of refusals, which make each case happen, or the model, which meets it by chance.

python -m tests.mutants            # all of them, some minutes
python -m tests.mutants cancel     # those whose name has the word
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
LUA = "flujo_client/protocol/lua"
TESTS = [f"tests/lua/test_{name}.py" for name in ("waiting", "in_place", "named", "refusals")]
MODEL = "tests/integration/test_budget_model.py"

#: What is spoilt: a script, a text in it that stands there once, and what stands there instead.
MUTANTS = {
    "starvation counter never rises": ("_waiters", "desk.grants = desk.grants + shared", "desk.grants = desk.grants"),
    "passed over once too often": ("_waiters", "MOST_PASSED = 16", "MOST_PASSED = 17"),
    "nothing is kept for who was passed over": ("_waiters", "if first and other ~= path then", "if false then"),
    "cancel keeps what was reserved ahead": ("_stuck", "    unbook(desk.book, terms_of(", "    words(terms_of("),
    "cancel leaves waiters": ("_stuck", "later(desk, 'DEL', desk.waiters)", "later(desk, 'EXISTS', desk.waiters)"),
    "a floor that is too high": ("_floors", "own and math.max(0, need - free(nearest)) or need", "need"),
    "a floor that never falls": ("_floors", "math.min(need, least[meter] or 0)", "(least[meter] or 0)"),
    "accounts above do not hear of what came free": ("_floors", "if least then lower(", "if false then lower("),
    "a hint rules out who could go on": ("_hints", "needs[meter] > (above", "needs[meter] >= (above"),
    "what was pooled further up is not heard of": ("_serve", "  desk.parents = {}  -- budget may", "  -- budget may"),
    "a hint stays when budget comes back": ("_hints", "refresh(desk, attempt)\n    end", "end"),
    "who was passed over leaves, and nobody hears of it": ("_waiters", "then desk.book.freed.root = true end", "then end"),
    "waiters in the order in which they came": ("_waiters", "{'d' .. place", "{'d' .. attempt.stamp .. place"),
    "a closed branch keeps its money": ("_moves", "if rows[level].closed == 0 then return end", "if true then return end"),
    "a strict share draws on its siblings": ("_accounts", "if rows[level].strict then rows.top = level end", ""),
    "a step's own limit does not bind": ("_moves", "entry.cap - use(entry) < sum", "entry.cap - use(entry) < -1"),
    "the farthest ancestor is drawn on first": ("_moves", "for level = 2, rows.top do", "for level = rows.top, 2, -1 do"),
    "stuck money is not pooled": ("_stuck", "do pool(lineage", "do words(lineage"),
    "somebody is refused while others run": ("_stuck", "if top and thread.running == 0 then\n        return", "if top then\n        return"),
    "a late bill is charged twice": ("commit", "claim .. 'phase', 'settled')", "claim .. 'late', 'settled')"),
    "a loss is free of charge": ("lose", "local kept = held > known and not refunded", "local kept = false"),
    "an extension counts twice": ("extend", ">= tonumber(ARGV[5]) then return {1} end", "> tonumber(ARGV[5]) then return {1} end"),
    "what waits in its place never draws on running siblings": ("extend", "do borrow(book,", "do words(book,"),
    "who waits in its place is refused with what it lacks alone": ("extend", "  unstick(desk)\n", "  refuse(desk, asking)\n"),
    "whoever waits in its place stays there after its commit": ("commit", "get_up(desk, path, nonce, stored[7])", ""),
    "whoever waits in its place stays there when it is lost": ("lose", "get_up(desk, path, ARGV[4], stored[7])", ""),
    "an extension passes who waits for a named account": ("_charges", "tonumber(passed[2]) >= MOST_PASSED", "false"),
    "what siblings have free pays no bill": ("_borrowing", "if reachable(rows) >= asked then break end", "if true then break end"),
    "overrun is hidden": ("_moves", "rows[1].overrun + (actual - covered)", "rows[1].overrun"),
}  # fmt: skip


def killed(script: str, text: str, spoilt: str) -> bool:
    """Whether the tests fail on a copy of the project with that fault."""
    with TemporaryDirectory() as folder:
        for part in ("flujo_client", "flujo_worker", "tests", "pyproject.toml"):
            source, target = ROOT / part, Path(folder) / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        file = Path(folder) / LUA / f"{script}.lua"
        lua = file.read_text()
        if lua.count(text) != 1:
            raise SystemExit(f"{script}.lua has {lua.count(text)} of {text!r}: mend the list of mutants")
        file.write_text(lua.replace(text, spoilt))
        environment = os.environ | {
            "PYTHONPATH": folder,
            "TEST_MUTANT": script,
            "TEST_STORM_EXAMPLES": os.environ.get("EXAMPLES", "250"),
        }
        call = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS, MODEL]
        done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    return done.returncode == 1


def main() -> int:
    """Try every mutant that was asked for; how many survived is the exit status."""
    survived = 0
    for name, fault in MUTANTS.items():
        if all(word in name for word in sys.argv[1:]):
            found = killed(*fault)
            survived += not found
            sys.stdout.write(f"{'killed' if found else 'SURVIVED'}  {name}\n")
            sys.stdout.flush()
    return survived


if __name__ == "__main__":
    raise SystemExit(main())
