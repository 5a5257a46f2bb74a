"""Whether a run kept its promises, and of what kind a fault is.

A *fault* breaks a promise: a crash, exit code 70, a limit of time or memory, a wrong file, another file that was
written, a last line without a documented word. A *refusal* is exit code 1, 2 or 3 for a model that is right. Faults of
the same kind have the same signature: numbers, names and places are taken out of its text.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from tools.fuzz.cases import MODEL, OUTPUT, PLAN, Case
from tools.fuzz.child import Command, Ran
from tools.fuzz.child_call import Ended, call_in_child
from tools.fuzz.oracle import Differs, can_run, compare

CODES = {0, 1, 2, 3, 4, 5, 6, 7, 130}
FIRST_WORDS = ("VERIFIED", "UNPROVEN", "UNCHANGED", "GATE_MISSED", "PASSED")
ERRORS = ("spa-compile: error:", "Error:", "spa-compile: interrupted", "Usage:", "Try ")
WITHOUT_LOSS = "which changes no output"
"""Words of a run that reads channels from others or folds weights, which a reference of zeros cannot follow."""
RESIDENT = 3 << 30
"""Bytes that a run may hold; `--memory` is 2 GB by default."""
FRAME = re.compile(r'File "[^"]*?(?:spa_compiler|passes)/([^"]+)", line \d+, in (\S+)')
ERROR = re.compile(r"internal error: (\w+): (.*)")


@dataclass(frozen=True)
class Verdict:
    """The end of a case: `level` is "" (well), "fault" or "refusal"; `outcome` is counted."""

    outcome: str
    level: str = ""
    signature: str = ""
    text: str = ""


def run_case(case: Case, command: Command, folder: Path, options: set[str]) -> tuple[Ran, Verdict]:
    """Write the case's files into an empty folder, run the command there and judge."""
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    before = read_folder(folder)
    ran = command.run([MODEL, *keep_known(case.argv, options)], folder, case.limits)
    reference = folder / MODEL
    if ran.exit == 0 and WITHOUT_LOSS in ran.stdout:
        reference = folder.with_name(f"{folder.name}.exact") / OUTPUT
        reference.parent.mkdir(exist_ok=True)
        command.run(
            [MODEL, *keep_known(ask_for_nothing(case.argv), options), "-o", str(reference)], folder, case.limits
        )
    return ran, judge(case, ran, folder, before, reference)


def ask_for_nothing(argv: list[str]) -> list[str]:
    """The arguments that say how a model is read, and a share of nothing to remove."""
    kept = [w for k in range(len(argv)) for w in argv[k : k + 2] if argv[k] in ("--input-shape", "--input-range")]
    return [*kept, "--ratio", "0", "--criterion", "l2", "--no-latency", "--no-quality", "--allow-unproven"]


def keep_known(argv: list[str], options: set[str]) -> list[str]:
    """The arguments without options that this version of the command does not have."""
    out: list[str] = []
    dropped = False
    for word in argv:
        if word.startswith("-") and not re.fullmatch(r"-\d.*|-", word):
            dropped = bool(options) and word not in options
            if not dropped:
                out.append(word)
        elif not dropped:
            out.append(word)
    return out


def read_folder(folder: Path) -> dict[str, str]:
    """Names and hashes of what is in a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def judge(case: Case, ran: Ran, folder: Path, before: dict[str, str], reference: Path | None = None) -> Verdict:
    """The first promise that is broken, or what came out.

    `reference`: the file whose channels are cut; where some were read from others, what a share of nothing makes of the
    model, which has to do all that the model does.
    """
    for check in (check_end, check_files, check_words):
        if (found := check(case, ran, folder, before)) is not None:
            return found
    wrote = (folder / OUTPUT).exists() and ran.exit == 0 and OUTPUT not in before
    if wrote and case.inputs:
        return compare_files(case, folder, reference or folder / MODEL)
    if wrote:
        return Verdict("compiled")
    if case.ordinary and ran.exit in (1, 2, 3) and not ran.stdout.rstrip().rpartition("\n")[2].startswith("UNPROVEN"):
        if not is_deadly(folder / MODEL, case) and call_in_child(can_run, folder / MODEL, case.inputs):
            text = tell_error(ran)
            return Verdict(f"refused {ran.exit}", "refusal", f"exit {ran.exit}: {shorten(text)}", text)
        return Verdict(f"exit {ran.exit}, and the dense file does not run")
    return Verdict(f"exit {ran.exit}")


def compare_files(case: Case, folder: Path, reference: Path) -> Verdict:
    """The verdict on a file that was written: it has to do what the reference does with its channels cut."""
    exact = reference != folder / MODEL
    if exact and not reference.exists():
        return Verdict("compiled, what goes without loss cannot be had alone")
    try:
        if exact:
            call_in_child(compare, folder / MODEL, reference, case.inputs, None, case.exact, case.half, True)
        plan = None if exact else read_plan(folder / PLAN)  # of channels that the reference has lost
        compared = call_in_child(compare, reference, folder / OUTPUT, case.inputs, plan, case.exact, case.half)
    except Differs as e:
        return Verdict("wrong", "fault", f"wrong file: {shorten(str(e))}", str(e))
    except Ended as e:
        if is_deadly(folder / MODEL, case):
            return Verdict("compiled, the dense file ends onnxruntime")
        return Verdict("wrong", "fault", f"wrong file: ends onnxruntime with {e}", str(e))
    return Verdict("compiled and compared" if compared.sizes else "compiled, no size runs")


def is_deadly(dense: Path, case: Case) -> bool:
    """Does the dense file end the process in which onnxruntime opens or runs it?"""
    try:
        call_in_child(can_run, dense, case.inputs)
    except Ended:
        return True
    return False


def read_plan(path: Path) -> object:
    """The saved plan, or None."""
    return json.loads(path.read_text()) if path.exists() else None


def check_end(case: Case, ran: Ran, folder: Path, before: dict[str, str]) -> Verdict | None:
    """The exit code, the time and the memory."""
    del folder, before
    what = case.tags[0] if case.kind == "hostile" and case.tags else case.kind
    if case.kind == "hostile" and len(case.tags) > 1:
        what = f"{case.tags[0]} {case.tags[1]}"
    if ran.late or ran.exit in (-24, -9):
        return Verdict("hang", "fault", f"time: no end within {case.limits.cpu:.0f} s ({what})", tell_error(ran))
    if ran.exit < 0 or (ran.exit >= 128 and ran.exit != 130):
        return Verdict("signal", "fault", f"signal {-ran.exit} ({what}): {shorten(tell_error(ran))}", tell_error(ran))
    if ran.exit == 70:
        return Verdict("exit 70", "fault", name_defect(ran, what), tell_error(ran))
    if ran.exit not in CODES:
        return Verdict("exit code", "fault", f"exit code {ran.exit} is not documented", tell_error(ran))
    if "Traceback (most recent" in ran.stderr and ran.exit != 2 and "spa-compile: error" not in ran.stderr:
        return Verdict("traceback", "fault", name_defect(ran, what), tell_error(ran))
    if ran.memory > RESIDENT:
        return Verdict("memory", "fault", f"memory: more than {RESIDENT >> 30} GB ({what})", f"{ran.memory >> 20} MB")
    return None


def name_defect(ran: Ran, what: str) -> str:
    """The kind of a defect: the error's class and message, and where the library raised it."""
    if "out of memory" in ran.stderr:
        return f"exit 70: out of memory ({what})"
    found = ERROR.search(ran.stderr)
    kind = f"{found[1]}: {shorten(found[2])}" if found else shorten(tell_error(ran))
    frames = FRAME.findall(ran.stderr)
    return f"exit {ran.exit}: {kind} @ {frames[-1][0]}:{frames[-1][1]}" if frames else f"exit {ran.exit}: {kind}"


def check_files(case: Case, ran: Ran, folder: Path, before: dict[str, str]) -> Verdict | None:
    """Nothing but what was asked for is written, and nothing that was there is changed."""
    after = read_folder(folder)
    asked = {
        OUTPUT,
        PLAN,
        *(case.argv[k + 1] for k, w in enumerate(case.argv[:-1]) if w in ("--report", "-o", "--save-plan")),
    }
    if "." in asked:  # `-o .` is the folder
        asked.add("model.pruned.onnx")
    changed = [n for n in before if after.get(n) != before[n]]
    if changed:
        return Verdict("changed an input", "fault", f"changed {changed[0]}", str(changed))
    more = [n for n in after if n not in before and n not in asked and not re.fullmatch(r".*\.onnx(\.\w+)?\.data", n)]
    if more:
        return Verdict("wrote more", "fault", "wrote a file that nobody asked for", str(more))
    if ran.exit not in (0, 7) and OUTPUT in after and OUTPUT not in before:
        return Verdict(
            "wrote in spite of an error", "fault", f"exit {ran.exit}, and a model was written", tell_error(ran)
        )
    said = last_line(ran.stdout)
    if (
        ran.exit == 0
        and OUTPUT not in after
        and "--dry-run" not in case.argv
        and not said.startswith("UNCHANGED")
        and "-o" not in case.argv[:-2]
    ):
        return Verdict("nothing written", "fault", "exit 0, and no model was written", said)
    return None


def check_words(case: Case, ran: Ran, folder: Path, before: dict[str, str]) -> Verdict | None:
    """The last line begins with a documented word."""
    del case, folder, before
    line = last_line(ran.stdout if ran.exit in (0, 6) else ran.stderr)
    words = FIRST_WORDS if ran.exit == 0 else (*FIRST_WORDS, *ERRORS)
    if ran.exit in (0, 6) and not line.startswith(words):
        return Verdict("last line", "fault", f"exit {ran.exit}: the last line begins with no documented word", line)
    if ran.exit not in (0, 6) and not any(e in ran.stderr for e in ERRORS):
        return Verdict("last line", "fault", f"exit {ran.exit} without a message", ran.stderr[-300:])
    if ran.exit and re.search(r"\b(NoneType|object has no attribute|KeyError|IndexError)\b", line):
        return Verdict("message", "fault", f"exit {ran.exit}: a message of Python's: {shorten(line)}", line)
    return None


def last_line(text: str) -> str:
    """The last line that is not empty."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def tell_error(ran: Ran) -> str:
    """The line with the error, or the last one."""
    lines = [n for n in ran.stderr.splitlines() if n.startswith(("spa-compile:", "Error:")) and ": step " not in n]
    return (lines[0] if lines else last_line(ran.stderr) or last_line(ran.stdout))[:600]


def shorten(text: str) -> str:
    """A message without names, numbers and places."""
    text = re.sub(r"^spa-compile: (internal )?error: ", "", text)
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"Non-zero status code returned while running (\w+) node. Name:\S+ Status Message: ", r"\1: ", text)
    text = re.sub(r"\{[^{}]*\}|\([^()]*\)|\[[^\[\]]*\]", "()", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "'..'", text)
    text = re.sub(r"\S*[/\\]\S*|\b\w*\.onnx\b", "..", text)
    text = re.sub(r"\b\w*\d[\w.+-]*", "N", text)
    return " ".join(text.split())[:130]
