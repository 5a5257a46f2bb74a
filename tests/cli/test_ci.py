"""Examples for CI do what they say: the action's step, the hooks, the commands of workflows, the Containerfile."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
import yaml

from commands import check_report
from spa_compiler.cli.hook import run_hook
from spa_compiler.cli.main import compile_command, spa

ROOT = Path(__file__).resolve().parents[2]
QUICK = "--criterion l2 --no-latency --no-quality"
ANNOTATION = re.compile(r"^::(error|warning) title=([^:,]+)::(.+)$", re.MULTILINE)


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def find_step() -> dict[str, Any]:
    """The step of the action that compiles."""
    return next(s for s in read_yaml("action.yml")["runs"]["steps"] if s.get("id") == "compile")


def run_step(folder: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """The action's own step, as a runner starts it: its defaults, its expressions, its shell. The outputs, too."""
    action = read_yaml("action.yml")
    values = {name: str(i.get("default", "")) for name, i in action["inputs"].items()} | inputs
    step = find_step()
    given = {k: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: values[m[1]], v) for k, v in step["env"].items()}
    places = {"GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "GITHUB_OUTPUT": str(folder / "outputs")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **places, **given, "GITHUB_ACTION_PATH": str(ROOT), "PATH": path}
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    lines = (folder / "outputs").read_text().splitlines() if (folder / "outputs").exists() else []
    return done, dict(line.split("=", 1) for line in lines)


@pytest.mark.skipif(sys.platform == "win32", reason="the step runs in bash")
@pytest.mark.parametrize(("inputs", "code", "status", "level"), [
    ({"ratio": "0.4", "gates": "cosine=0.01\nmacs_reduction=0.3\n"}, 0, "VERIFIED", None),
    ({"ratio": "0.4", "gates": "cosine=2\nmacs_reduction=0.3"}, 6, "GATE_MISSED", "error"),
    ({"ratio": "0.4", "arguments": f"--exclude '*' {QUICK}", "allow-noop": "true"}, 0, "UNCHANGED", "warning"),
    ({"ratio": "0.4", "arguments": f"--exclude '*' {QUICK}"}, 5, "UNCHANGED", "error"),
    ({"ratio": "0.999"}, 4, "ERROR", "error"),
    ({"ratio": "0.4", "arguments": "--no-such-option"}, 2, "ERROR", "error"),
], ids=["done", "gate", "unchanged", "unchanged and not allowed", "budget", "usage"])  # fmt: skip
def test_the_step_of_the_action_compiles_reports_and_annotates(
    source: Path, inputs: dict[str, str], code: int, status: str, level: str | None
) -> None:
    done, outputs = run_step(source.parent, **{"model": "gru.onnx", "output": "out/", "arguments": QUICK} | inputs)
    assert (done.returncode, outputs["status"]) == (code, status), done.stderr
    found = ANNOTATION.findall(done.stdout)
    if level is None:
        assert "error" not in [f[0] for f in found]
    else:
        assert found[0][0] == level
    assert len([f for f in found if "gate missed" in f[1]]) == (1 if code == 6 else 0)
    assert (source.parent / "out" / "gru.pruned.onnx").is_file() == (code == 0) == bool(outputs["model"])
    if code != 2:
        check_report(json.loads((source.parent / outputs["report"]).read_text()))
        assert status in (source.parent / "summary.md").read_text().replace("\\", "") or code == 6
        assert (source.parent / "spa-report" / "report.html").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="the step runs in bash")
def test_a_step_without_a_model_says_so(tmp_path: Path) -> None:
    done, _ = run_step(tmp_path, model=" ")
    assert done.returncode == 2
    assert "SPA_MODEL" in ANNOTATION.findall(done.stdout)[0][2]


def test_every_input_of_the_action_is_used_and_explained() -> None:
    action, page = read_yaml("action.yml"), (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text(encoding="utf-8")))
    assert used == set(action["inputs"])
    assert not [name for name in action["inputs"] if f"`{name}`" not in page]
    assert all(step.get("shell") for step in action["runs"]["steps"] if "run" in step)
    uses = read_yaml("docs/ci/github.yml")["jobs"]["compile"]["steps"]
    assert all(set(s["with"]) <= set(action["inputs"]) for s in uses if "spa-compile" in s.get("uses", ""))


def list_runs(node: Any) -> Iterator[str]:
    """Lines that a workflow runs."""
    if isinstance(node, dict):
        for key, below in node.items():
            if key in ("run", "script"):
                yield from (below if isinstance(below, list) else below.splitlines())
            else:
                yield from list_runs(below)
    elif isinstance(node, list):
        for below in node:
            yield from list_runs(below)


def parse(line: str) -> None:
    """Read a command line, and run nothing. Ends the process where an option does not exist or fit."""
    words = shlex.split(line)[1:]
    command: click.Command = compile_command
    if words[0] in spa.commands:
        command, words = spa.commands[words[0]], words[1:]
    command.make_context(command.name, words)


@pytest.mark.parametrize("path", ["docs/ci/github.yml", "docs/ci/gitlab.yml"])
def test_commands_of_the_examples_are_valid(path: str) -> None:
    lines = [line for line in list_runs(read_yaml(path)) if line.startswith("spa-compile ")]
    assert len(lines) >= 2
    for line in lines:
        parse(line)
    with pytest.raises(SystemExit):
        parse(f"{lines[0]} --no-such-option")


def test_hooks_run_for_every_file_and_fail_with_the_first(source: Path, models: Path) -> None:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    hooks = {h["id"]: shlex.split(h["entry"]) for h in read_yaml(".pre-commit-hooks.yaml")}
    assert {words[0] for words in hooks.values()} <= set(entries)
    small, other = source.with_name("gru.pruned.onnx"), source.with_name("other.onnx")
    shutil.copy(models / "digits_gru.onnx", other)
    compiled = subprocess.run(
        [sys.executable, "-m", "spa_compiler", source, "--ratio", "0.4", *QUICK.split()],
        capture_output=True,
        check=False,
    )
    assert compiled.returncode == 0

    def run(hook: str, *more: object) -> int:
        return run_hook([*hooks[hook][1:], *map(str, more)])

    assert run("spa-compile-inspect", source, other, small) == 0
    assert run("spa-compile-verify", "--rerun", small) == 0
    other.write_bytes(b"no model")
    assert run("spa-compile-inspect", other, source) == 3
    assert run("spa-compile-verify", other) == 3  # of no dense model
    wrong = onnx.load(small)
    weight = max(wrong.graph.initializer, key=lambda t: t.ByteSize())
    weight.CopyFrom(onnx.numpy_helper.from_array(np.array(onnx.numpy_helper.to_array(weight)) + 1, weight.name))
    onnx.save(wrong, small)
    assert run("spa-compile-verify", "--rerun", small) == 1
    assert run_hook(["compile", str(source)]) == run_hook([]) == 2
    assert run_hook(["inspect"]) == 0


def read_containerfile() -> list[tuple[str, str]]:
    """Instructions with what stands behind them."""
    text = re.sub(r"\\\n", " ", (ROOT / "Containerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(first, rest.strip()) for first, _, rest in (line.partition(" ") for line in lines)]


def test_the_containerfile_builds_from_this_checkout_and_runs_without_root() -> None:
    found = read_containerfile()
    allowed = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in found} <= allowed and found[0][0] == "FROM"
    last_from = max(k for k, (name, _) in enumerate(found) if name == "FROM")
    assert all(rest.startswith("python:3.11-slim") for name, rest in found if name == "FROM")
    users = [rest for name, rest in found[last_from:] if name == "USER"]
    assert users and users[-1] not in ("root", "0")
    order = [name for name, _ in found[last_from:]]
    assert order.index("RUN") < order.index("USER") < order.index("ENTRYPOINT")  # who installs is root
    assert all(isinstance(json.loads(rest), list) for name, rest in found if name in ("ENTRYPOINT", "CMD"))
    copied = {w for name, rest in found[:last_from] if name == "COPY" for w in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {*project["tool"]["setuptools"]["package-dir"].values(), project["project"]["readme"], "pyproject.toml"}
    assert needed <= copied
