"""`spa-compile-hook VERB [OPTIONS] FILE...`: a command for every file that is committed, as pre-commit gives them.

    spa-compile-hook inspect a.onnx b.onnx
    spa-compile-hook verify --rerun a.pruned.onnx         # beside a.onnx, of which it was compiled

All files are looked at; the exit code is that of the first that failed. Words from the last that does not end in
`.onnx` on are the files, so an option's value that is a model has to be written as --option=FILE.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from spa_compiler.cli import start
from spa_compiler.exit_codes import ExitCode

MODEL, COMPILED = ".onnx", ".pruned.onnx"
VERBS = ("inspect", "verify")


def run_hook(arguments: Sequence[str] | None = None) -> int:
    """Run the verb for every file; the exit code."""
    verb, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or [""]
    if verb not in VERBS:
        print(f"spa-compile-hook: error: expected one of {', '.join(VERBS)}, then options, then files", file=sys.stderr)
        return int(ExitCode.BAD_USAGE)
    first = next((k + 1 for k in reversed(range(len(rest))) if not rest[k].endswith(MODEL)), 0)
    options, files = rest[:first], rest[first:]
    codes = [_run_verb(verb, options, file) for file in files]
    return next((code for code in codes if code), int(ExitCode.DONE))


def _run_verb(verb: str, options: Sequence[str], file: str) -> int:
    """One file; the exit code."""
    models = [file]
    if verb == "verify":
        dense = Path(f"{file.removesuffix(COMPILED)}{MODEL}")
        if not file.endswith(COMPILED) or not dense.is_file():
            print(
                f"{file}: there is no dense model to prove it from: NAME.pruned.onnx needs NAME.onnx", file=sys.stderr
            )
            return int(ExitCode.BAD_MODEL)
        models = [str(dense), file]
    print(f"{verb} {file}", flush=True)
    try:
        start.spa([verb, *options, "--", *models], prog_name="spa-compile")
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(bool(e.code))
    return int(ExitCode.DONE)
