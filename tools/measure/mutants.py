"""How much the proof sees: compiled files in which one weight is wrong, and how many of them are refused.

    python -m tools.measure.mutants --each 120 [--models FOLDER] > docs/mutants.md

Each model is compiled (`--ratio 0.5 --criterion l2`), and in the result one thing is changed:

    channels  two kept channels of one weight are exchanged
    row       one row of a weight is shifted by one
    bias      one entry of a bias, or of another vector, is wrong by a tenth of the largest
    head      two heads (or convolution groups) of one weight are exchanged

Kinds, places and seeds are drawn evenly over all weights and biases of all models. A mutant counts where an output
differs from the compiled model's by more than rounding on some real input: the digits that come with the repository for
models/, calibration's inputs for the others; rounding is four times what onnxruntime's own optimisations change on the
same inputs, 1e-6 at least. Each is given to the check that a compile runs, and written, read again and given to what
`spa verify --plan` runs. Both compare what the models give, never weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.masks import NO_CHANNEL, find_coordinates, list_kept_positions
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.datasets.arrays import load_npz
from spa_compiler.errors import SpaError
from spa_compiler.ir.model import Model, make_constant
from spa_compiler.ir.reader import load
from spa_compiler.ir.writer import write
from spa_compiler.pipeline.passes import Pipeline
from spa_compiler.pipeline.state import State
from spa_compiler.verification.comparison import measure_difference
from spa_compiler.verification.proof import Proof
from spa_compiler.verification.runs import Side

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("channels", "row", "bias", "head")
NOISE, LEAST = 4.0, 1e-6
"""Times what onnxruntime's optimisations change, and the least, from which an output differs by more than rounding."""
INPUTS = 64
"""Calibration inputs."""
PLAN = "normalize,erase,score{criterion=l2},allocate{ratio=0.5},remove,verify{allow_unproven=true}"
Array = NDArray[Any]
Feed = dict[str, Array]
Site = tuple[str, int]


@dataclass
class Subject:
    """A compiled model, the proof that it passed, and its outputs on real inputs."""

    name: str
    graph: DependencyGraph
    small: Model
    proof: Proof
    feeds: list[Feed]
    right: list[list[Any]] = field(default_factory=list)
    rounding: float = LEAST

    def run(self, model: Model, level: int = 0) -> list[list[Any]]:
        """All outputs of a model on the real inputs."""
        names = [t.name for t in self.graph.model.graph.outputs]
        side = Side(model.proto(), model.folder, names, "the mutant", level)
        return [list(side.run(feed, names).values()) for feed in self.feeds]


def prepare(path: Path) -> Subject | None:
    """Compile a model and prove it; None where nothing can be cut, or the proof cannot see what is."""
    state = State.of(load(path))
    try:
        done = Pipeline.parse(PLAN).run(state)
    except SpaError as e:
        print(f"{path.name}: {e}", file=sys.stderr)
        return None
    if done.pruned is None or done.plan.is_empty:
        return None
    graph = done.require_graph()
    proof = Proof(graph, done.plan.masks(graph), source=done.source, remember=True)
    found = proof.check(done.pruned)
    if found.silent:  # a compile refuses it as a whole, which says nothing of what is compared
        print(f"{path.name}: UNPROVEN ({len(found.silent)} of {found.groups} groups)", file=sys.stderr)
        return None
    subject = Subject(path.name, graph, done.pruned, proof, _inputs(path, done))
    subject.right = subject.run(done.pruned)
    noise = (measure_difference(b, a).error for a, b in zip(subject.right, subject.run(done.pruned, 3), strict=True))
    subject.rounding = max(LEAST, NOISE * max((e for e in noise if np.isfinite(e)), default=0.0))
    return subject


def _inputs(path: Path, state: State) -> list[Feed]:
    """Real inputs where the repository has them, else calibration's."""
    if path.parent == ROOT / "models":
        images = load_npz(ROOT / "models" / "digits_calib.npz")
        name = state.source.graph.inputs[0].name
        return [{name: np.asarray(images[name] if name in images else next(iter(images.values())))[:INPUTS]}]
    step = Pipeline.parse(f"calibrate{{moments=false,samples={INPUTS}}}")
    feeds: list[Feed] = step.run(state).calibration.feeds
    return feeds


def find_sites(subject: Subject) -> dict[str, list[Site]]:
    """Per kind the weights of the compiled model, and the axis, that it can change."""
    constants = subject.small.constants()
    names = [n for n in subject.graph.weights if n in constants]
    shapes = {n: tuple(constants[n].shape) for n in names}
    pairs = [(n, i) for n in names for i, size in enumerate(shapes[n]) if len(shapes[n]) > 1 and size > 1]
    rows = [(n, len(shapes[n]) - 1) for n in names if len(shapes[n]) > 1 and max(shapes[n][1:]) > 1]
    heads = [(n, i) for n in names for i in range(len(shapes[n])) if len(_blocks(subject, n, i)) > 1]
    return {"channels": pairs, "row": rows, "bias": [(n, 0) for n in names if len(shapes[n]) == 1], "head": heads}


def _blocks(subject: Subject, name: str, axis: int) -> list[Array]:
    """Positions of each block (head, group of a convolution) on an axis of a weight of the compiled model."""
    graph, masks = subject.graph, subject.proof.masks
    blocks = set(graph.blocks.values())
    e = graph.values[name].axes[axis]
    found = next((d for d in find_coordinates(e) if d in blocks and d.size > 1), None)
    if found is None:
        return []
    place = find_coordinates(e)[found][list_kept_positions(e, masks, graph.blocks, {})]
    parts = [np.flatnonzero(place == k) for k in range(found.size) if (place == k).any()]
    return parts if len({len(p) for p in parts}) == 1 and (place != NO_CHANNEL).all() else []


def mutate(subject: Subject, kind: str, site: Site, rng: np.random.Generator) -> Model:
    """The compiled model with one thing wrong."""
    name, axis = site
    out = subject.small.copy()
    tensor = out.constants()[name]
    array = np.array(out.array(tensor))
    if kind == "bias":
        k = int(rng.integers(array.size))
        step = 0.1 * float(np.abs(array.astype(np.float64)).max()) or 0.1
        array[k] += np.asarray(step if array.dtype.kind == "f" else max(1, round(step)), array.dtype)
    elif kind == "row":
        row = int(rng.integers(len(array)))
        longest = int(np.argmax(array.shape[1:]))
        array[row] = np.roll(array[row], 1, axis=longest)
    else:
        parts = _blocks(subject, name, axis) if kind == "head" else [np.array([k]) for k in range(array.shape[axis])]
        a, b = (parts[k] for k in rng.choice(len(parts), 2, replace=False))
        at = np.arange(array.shape[axis])
        at[a], at[b] = b, a
        array = array.take(at, axis)
    tensor._values = make_constant(name, array)._values
    return out


def is_mutant(subject: Subject, model: Model) -> bool:
    """Does an output differ by more than rounding on some real input?"""
    try:
        found = subject.run(model)
    except SpaError:
        return True
    return max(measure_difference(b, a).error for a, b in zip(subject.right, found, strict=True)) > subject.rounding


def is_refused(subject: Subject, model: Model, scratch: Path) -> tuple[bool, bool]:
    """Is it refused by the check of a compile, and as a file by that of `spa verify --plan`?"""
    file = scratch / "mutant.onnx"
    write(model.proto(), model.folder, file)
    return bool(subject.proof.compare(model).wrong), bool(subject.proof.compare(load(file)).wrong)


def draw_mutants(
    subjects: list[Subject], each: int, seed: int = 0
) -> Iterator[tuple[Subject, str, Site, Model, np.random.Generator]]:
    """`each` mutants of every kind that change an output, evenly over models, weights and axes."""
    for kind in KINDS:
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        places = [(s, site) for s in subjects for site in find_sites(s)[kind]]
        made = tried = 0
        while places and made < each and tried < 20 * each:
            subject, site = places[int(rng.integers(len(places)))]
            tried += 1
            model = mutate(subject, kind, site, rng)
            if is_mutant(subject, model):
                made += 1
                yield subject, kind, site, model, rng


def survey(
    subjects: list[Subject], each: int, seed: int = 0
) -> tuple[Counter[str], Counter[str], Counter[str], list[str]]:
    """Mutants, refused by the compile, refused by `spa verify`, by kind; and a line on each that passed."""
    made: Counter[str] = Counter()
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        for subject, kind, (name, axis), model, _ in draw_mutants(subjects, each, seed):
            here, there = is_refused(subject, model, Path(folder))
            made[kind] += 1
            first[kind] += here
            second[kind] += there
            if not (here and there):
                found = subject.run(model)
                error = max(measure_difference(b, a).error for a, b in zip(subject.right, found, strict=True))
                missed.append(f"{kind} of '{name}' axis {axis} in {subject.name}: outputs differ by {error:.0e}")
    return made, first, second, missed


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--each", type=int, default=120, help="mutants of every kind")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--models", type=Path, help="a folder with more models")
    given = options.parse_args()
    folders = [ROOT / "models", ROOT / "tests" / "exports", *([given.models] if given.models else [])]
    paths = [p for f in folders for p in sorted(f.glob("*.onnx"))]
    subjects = [s for p in paths if (s := prepare(p)) is not None]
    made, first, second, missed = survey(subjects, given.each, given.seed)
    print("# What the proof sees\n")
    print(f"Made by `python -m tools.measure.mutants {' '.join(sys.argv[1:])}`.".replace(" `.", "`."), end="\n\n")
    print("\n".join(line.rstrip() for line in (__doc__ or "").split("\n\n", 2)[2].strip().splitlines()), end="\n\n")
    names = ", ".join(s.name.removesuffix(".onnx") for s in subjects)
    print(textwrap.fill(f"{len(subjects)} models: {names}.", 118, break_on_hyphens=False), end="\n\n")
    print("| kind | mutants | refused by the compile | refused by `spa verify --plan` |\n|---|---|---|---|")
    for kind in KINDS:
        print(f"| {kind} | {made[kind]} | {first[kind]} | {second[kind]} |")
    total = [sum(c.values()) for c in (made, first, second)]
    print(f"| all | {total[0]} | {total[1]} ({total[1] / total[0]:.1%}) | {total[2]} ({total[2] / total[0]:.1%}) |")
    print("\n" + "\n".join(f"- passed: {line}" for line in missed) if missed else "\nNone passed unseen.")


if __name__ == "__main__":
    main()
