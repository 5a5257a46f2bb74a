"""Many random cases for `spa-compile`, each of which has to keep its promises.

    python -m tools.fuzz --cases 20000 --jobs 2              # all kinds
    python -m tools.fuzz --cases 500 --kind tokens --seed 4000
    python -m tools.fuzz --case tokens-4017                  # one case, with what the command says
    python -m tools.fuzz --cases 2000 --python OTHER/bin/python   # the command of another environment

Exit code 1 where a case broke a promise. Every kind of fault gets a folder under --out with a small model, the command
and the seed; found.md and found.json there count all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tools.fuzz.cases import KINDS, MAKERS, list_cases, make_case
from tools.fuzz.table import Table
from tools.fuzz.worker import ATTEMPTS, Worker, start_worker, work

CHUNK = 4


def run_all(names: list[tuple[str, int]], a: argparse.Namespace) -> Table:
    """Run all cases in `--jobs` processes; the table is written as they end."""
    table, start, told = Table(), time.monotonic(), time.monotonic()
    a.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    given = a.python, a.out, 0 if a.plain else ATTEMPTS
    with ProcessPoolExecutor(a.jobs, context, start_worker, given) as pool:
        for row in pool.map(work, names, chunksize=CHUNK):
            table.add(row)
            if row["level"] == "fault" and len(table.found[row["level"], row["signature"]]) == 1:
                print(f"{row['case']}: {row['signature']}", flush=True)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(table.summarise(), flush=True)
                table.save(a.out, told - start)
    table.save(a.out, time.monotonic() - start)
    return table


def show_case(name: str, a: argparse.Namespace) -> None:
    """Run one case and print what the command says."""
    kind, _, seed = name.rpartition("-")
    case = make_case(kind, int(seed))
    worker = Worker(a.python, None, 0 if a.plain else ATTEMPTS)
    ran, verdict = worker.run(case)
    worker.save(a.out / case.name, worker.make_smaller(case, verdict) if verdict.level else case, verdict)
    print(ran.stdout, ran.stderr, sep="\n")
    print(f"exit {ran.exit}, {ran.cpu:.1f} s of CPU, {ran.memory >> 20} MB; tags {case.tags}")
    print(f"{verdict}\nsaved in {a.out / case.name}")
    worker.close()


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case: a run goes on where another ended")
    parser.add_argument("--kind", action="append", choices=KINDS, default=[], help="these kinds only")
    parser.add_argument("--case", help="one case, KIND-SEED")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--python", default=sys.executable, help="the interpreter whose spa-compile is run")
    parser.add_argument("--out", type=Path, default=Path("fuzz.out"), help="folder for what is found")
    parser.add_argument("--plain", action="store_true", help="do not make faults smaller")
    parser.add_argument("--list-kinds", action="store_true")
    a = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if a.list_kinds:
        print("\n".join(f"{k:8} {str(MAKERS[k].__doc__).splitlines()[0]}" for k in KINDS))
    elif a.case:
        show_case(a.case, a)
    else:
        table = run_all(list_cases(a.seed, a.cases, tuple(a.kind)), a)
        print("\n".join(table.write(0.0)))
        raise SystemExit(1 if table.faults else 0)


if __name__ == "__main__":
    main()
