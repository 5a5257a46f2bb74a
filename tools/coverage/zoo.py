"""Export the test models of `zoo_models` to ONNX with both exporters of PyTorch, into a cache outside the repository.

    python -m tools.coverage.zoo                          the first ten models
    python -m tools.coverage.zoo resnet50 lstm            these
    python -m tools.coverage.zoo --family timm            one family; `--family all` everything that is not very large
    python -m tools.coverage.zoo --list                   the names

Writes NAME.legacy.onnx (TorchScript exporter) and NAME.dynamo.onnx (torch.export) with each exporter's defaults, but
weights inside the file; batch axis `N`, example batch 1 (2 where torch.export takes 1 for a constant; fixed where an
exporter cannot leave it open). What exists is skipped; what an exporter refuses goes into failures.json with its error
and is not tried again without --retry. Every file is run once with onnxruntime and compared with PyTorch. Needs torch
(and torchvision, timm, transformers for their models), onnx, onnxscript, onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools import isolation

if TYPE_CHECKING:  # heavy: only the exporting processes import it
    from torch import Tensor, nn

EXPORTERS = ("legacy", "dynamo")
TIMEOUT, MEMORY = 600.0, 14 << 30
"""Seconds and bytes that one export may take."""
PRELOAD = (
    "torch",
    "torch.onnx",
    "torch.export",
    "torch._dynamo",
    "onnxscript",
    "onnxruntime",
    "tools.coverage.zoo_models",
)
LARGEST = 120e6  # parameters; `--family` leaves out what is larger, a name given on the command line does not


def cache() -> Path:
    """Where the exported models live: SPA_ZOO, or the user's cache."""
    return Path(os.environ.get("SPA_ZOO", "~/.cache/spa-compile/zoo")).expanduser()


def path_of(name: str, exporter: str, folder: Path | None = None) -> Path:
    """The file of a model, in the cache unless said otherwise."""
    return (folder or cache()) / f"{name}.{exporter}.onnx"


class Failures:
    """failures.json: `NAME.EXPORTER` -> error. Read again at each change, so that two runs do not lose an entry."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "failures.json"

    def read(self) -> dict[str, str]:
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def set(self, key: str, error: str | None) -> None:
        entries = {k: v for k, v in self.read().items() if k != key}
        if error is not None:
            entries[key] = error
        self.file.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")


def compare(path: Path, model: nn.Module, inputs: dict[str, Tensor], dynamic: bool) -> None:
    """Raise unless the batch is free and onnxruntime agrees with PyTorch: an exporter's fault must not look ours."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {value.name: value.shape for value in session.get_inputs()}
    if dynamic and any(isinstance(shape[0], int) for shape in taken.values()):
        raise ValueError(f"the exporter fixed the batch: {taken}")
    found = torch.from_numpy(session.run(None, {k: inputs[k].numpy() for k in taken})[0]).double()
    with torch.no_grad():
        wanted = model(*inputs.values())
    wanted = (wanted[0] if isinstance(wanted, tuple) else wanted).double()
    same = found.shape == wanted.shape
    if same and not dynamic:  # detections: nearly equal scores change places
        difference = (found.flatten().sort()[0] - wanted.flatten().sort()[0]).abs()
        same = bool(difference.median() <= 0.01 * wanted.abs().max())
    elif same:
        same = bool((found - wanted).abs().max() <= 1e-3 * wanted.abs().max())  # false for NaN
    if not same:
        noise = rounding(model, inputs, wanted) if found.shape == wanted.shape else 0.0
        if noise > 1e-3:
            raise ValueError(f"ill-conditioned: PyTorch's float32 is {noise:.1e} of the output from its own float64")
        raise ValueError(f"onnxruntime disagrees with PyTorch: shapes {tuple(found.shape)}, {tuple(wanted.shape)}")


def rounding(model: nn.Module, inputs: dict[str, Tensor], wanted: Tensor) -> float:
    """How far PyTorch's own result (`wanted`) lies from that of the same network in float64, relative to the largest.

    What no two orders of summation agree on is no fault of an exporter. Leaves the network in float64.
    """
    import torch

    with torch.no_grad():
        exact = model.double()(*(x.double() if x.is_floating_point() else x for x in inputs.values()))
    exact = exact[0] if isinstance(exact, tuple) else exact
    return float((wanted - exact).abs().max() / exact.abs().max())


def axes_of(exporter: str, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The exporter's arguments that call axis 0 of every input `N`."""
    import torch

    from tools.coverage.zoo_models import Call

    if exporter == "legacy":
        return {"dynamic_axes": {key: {0: "N"} for key in (*inputs, "y")}}
    shapes = ({0: torch.export.Dim("N")},) * len(inputs)
    return {"dynamic_shapes": (shapes,) if isinstance(model, Call) else shapes}  # Call.forward takes *args


def export(name: str, exporter: str, path: Path, batch: int, dynamic: bool) -> None:
    """Export one model to `path`; the file appears only when it is complete and agrees with PyTorch."""
    import torch

    from tools.coverage.zoo_models import prepare

    model, inputs = prepare(name, batch)
    partial = path.with_suffix(".partial")
    options = {"input_names": list(inputs), "output_names": ["y"], "verbose": False, "external_data": False}
    options |= axes_of(exporter, model, inputs) if dynamic else {}
    try:
        torch.onnx.export(model, tuple(inputs.values()), str(partial), dynamo=exporter == "dynamo", **options)
        compare(partial, model, inputs, dynamic)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def brief(error: Exception) -> str:
    """The cause, without the advice that the dynamo exporter prints before it and without terminal colours."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    return f"{type(error).__name__}: {text.split('## Exception summary')[-1].strip()}"[:1500]


def attempt(name: str, exporter: str, folder: str) -> dict[str, Any]:
    """Export in this process: {} or the error. The batch is fixed only where the exporter leaves no choice."""
    import torch

    from tools.coverage.zoo_models import table

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    error: dict[str, Any] = {}
    tries = [(1, True), (2, True), (1, False)] if exporter == "dynamo" else [(1, True), (1, False)]
    for batch, dynamic in tries if table()[name].dynamic else [(1, False)]:  # a batch of 1 often becomes a constant
        try:
            export(name, exporter, path_of(name, exporter, Path(folder)), batch, dynamic)
        except Exception as problem:  # any exporter may fail in any way: the failure is the result
            error = error or {"error": brief(problem)}
        else:
            return {}
    return error


def run(name: str, exporter: str, folder: Path, timeout: float, retry: bool = False, force: bool = False) -> str | None:
    """Export in a process of its own, so that a crash or a leak of an exporter ends with the model.

    Returns the error, also one of an earlier run; None when the file is there.
    """
    key, start = f"{name}.{exporter}", time.perf_counter()
    failed = Failures(folder).read().get(key)
    if not force and not (failed and retry) and (failed or path_of(name, exporter, folder).exists()):
        return failed
    error = isolation.run(attempt, (name, exporter, str(folder)), timeout, MEMORY).get("error")
    Failures(folder).set(key, error)
    if error:
        path_of(name, exporter, folder).unlink(missing_ok=True)  # left by an earlier run, and now known to be wrong
    verdict = (error or "ok").splitlines()[0][:150]
    print(f"{key} export {time.perf_counter() - start:.0f} s {verdict}", flush=True)
    return error


def small(name: str) -> bool:
    """Whether the model is below LARGEST, without allocating it."""
    import torch

    from tools.coverage.zoo_models import table

    try:
        with torch.device("meta"):
            return sum(p.numel() for p in table()[name].build().parameters()) < LARGEST
    except Exception:  # some models cannot be built without memory: let the export decide
        return True


def choose(names: list[str], family: str | None) -> list[str]:
    """The models to export: a family, the names given, or the first ten."""
    from tools.coverage.zoo_models import FIRST, table

    models = table()
    unknown = [name for name in names if name not in models]
    if unknown:
        raise SystemExit(f"unknown: {' '.join(unknown)} (--list shows the names)")
    if family:
        return [n for n, m in models.items() if family in ("all", m.family) and small(n)]
    return names or FIRST


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=cache(), help="default: $SPA_ZOO or ~/.cache/spa-compile/zoo")
    parser.add_argument("--exporter", choices=(*EXPORTERS, "both"), default="both")
    parser.add_argument("--family", help="torchvision, torchvision_tasks, timm, transformers, recurrent, dense, all")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for one export")
    parser.add_argument("--retry", action="store_true", help="try again what failed before")
    parser.add_argument("--force", action="store_true", help="export again what exists")
    parser.add_argument("--list", action="store_true")
    a = parser.parse_args()
    names = choose(a.names, "all" if a.list else a.family)
    if a.list:
        print(*names, sep="\n")
        return
    a.out.mkdir(parents=True, exist_ok=True)
    isolation.preload(*PRELOAD)
    for name in names:
        for exporter in EXPORTERS if a.exporter == "both" else (a.exporter,):
            run(name, exporter, a.out, a.timeout, a.retry, a.force)


if __name__ == "__main__":
    main()
