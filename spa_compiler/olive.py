"""A pass for Olive (extra `olive`): a compile between Olive's other passes, with the options of `compile`.

    python -m spa_compiler.olive > packages.json          # Olive's own passes, and this one
    olive run --config run.json --package-config packages.json

In `run.json`: `"passes": {"prune": {"type": "SpaCompile", "ratio": 0.3, "data_config": "real"}}`. Every option of
`compile` is a parameter; `data_config` names Olive's calibration data and stands for `calib`. What cannot be pruned so
far fails that branch of a search; options that do not fit end the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Union

import spa_compiler
from spa_compiler.cli.arguments import find_plain_type
from spa_compiler.errors import NothingToPrune, SpaError, UsageError
from spa_compiler.output import copy_model
from spa_compiler.pipeline.fields import DeclaredOption
from spa_compiler.pipeline.options import find_declared

try:
    from olive.common.config_utils import validate_config
    from olive.data.config import DataConfig
    from olive.exception import OlivePassError
    from olive.model import ONNXModelHandler
    from olive.model.utils import resolve_onnx_path
    from olive.package_config import OlivePackageConfig
    from olive.passes import Pass
    from olive.passes.pass_config import PassConfigParam
    from olive.resource_path import LocalFile, LocalFolder
except ImportError as e:
    raise ImportError(f"the pass needs Olive: pip install 'spa-compile[olive]' ({e})") from e

NO_PARAMETERS = ("dry_run", "fail_under")
"""Options of a command alone: a pass always gives a model, and Olive has evaluators of its own."""


class SpaCompile(Pass):
    """Structured pruning by spa-compile, proven against onnxruntime before the model is handed on."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        """The parameters: those of `compile`, none of them given."""
        shown = {name: own for name, own in find_declared().items() if name not in NO_PARAMETERS}
        return {
            **{name: _make_parameter(own) for name, own in shown.items() if not own.shown.hidden},
            "data_config": PassConfigParam(
                type_=Union[DataConfig, dict],  # noqa: UP007  # Olive asks a Union for its members
                default_value=None,
                description="Real inputs to calibrate on, in place of calib.",
            ),
            "allow_noop": PassConfigParam(
                type_=bool, default_value=False, description="Hand on the model where nothing can be pruned."
            ),
        }

    def _run_for_config(self, model: Any, config: Any, output_model_path: str) -> Any:
        """Compile an ONNX model; a handler of the result."""
        if not isinstance(model, ONNXModelHandler):
            raise ValueError(f"SpaCompile takes ONNX models, not {type(model).__name__}: put a conversion before it")
        if model.external_initializers_path or model.constant_inputs_path:
            raise ValueError("SpaCompile takes models with all of their weights: put it before extracting adapters")
        source, target = Path(model.model_path), Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        found = _compile(source, target, config)
        where = LocalFolder({"path": target.parent}) if found["data"] else LocalFile({"path": target})
        return ONNXModelHandler(
            model_path=where,
            onnx_file_name=target.name if found["data"] else None,
            inference_settings=model.inference_settings,
            use_ort_extensions=model.use_ort_extensions,
            model_attributes={**(model.model_attributes or {}), "spa_compile": found["says"]},
        )


def _make_parameter(own: DeclaredOption) -> Any:
    """An option as a parameter; not given: the default of spa-compile, which may follow other options."""
    plain: Any = find_plain_type(own.kind)
    if plain is tuple:
        plain = str | list[str] | dict[str, Any]
    elif own.shown.choices or own.shown.word or own.shown.switch or own.shown.entries:
        plain = Union[plain, str]  # noqa: UP007  # either may be the text
    return PassConfigParam(type_=plain, default_value=None, description=own.shown.help)


def _compile(source: Path, target: Path, config: Any) -> dict[str, Any]:
    """Write the compiled model; `data` is its external data, `says` what Olive keeps of the report."""
    given = {n: v for n in find_declared() if (v := getattr(config, n, None)) is not None}
    if config.data_config is not None:
        if "calib" in given:
            raise ValueError("calib and data_config both say what to calibrate on: give one of them")
        given["calib"] = (
            validate_config(config.data_config, DataConfig).to_data_container().create_calibration_dataloader()
        )
    try:
        report = spa_compiler.compile(str(source), output=str(target), **given).report
    except NothingToPrune as e:
        if not config.allow_noop:
            raise OlivePassError(str(e)) from e
        return {"data": copy_model(source, target)["data"], "says": {"status": "UNCHANGED", "why": str(e)}}
    except UsageError as e:
        raise ValueError(str(e)) from e
    except SpaError as e:
        raise OlivePassError(str(e)) from e
    says = {name: report[name] for name in ("tool", "status", "quality", "asked", "reached", "pipeline")}
    return {"data": report["output"]["data"], "says": says}


def make_package_config() -> dict[str, Any]:
    """Olive's list of passes with this one."""
    found: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8"))
    found["passes"][SpaCompile.__name__] = {
        "module_path": f"spa_compiler.olive.{SpaCompile.__name__}",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "dataset": "dataset_optional",
    }
    return found


if __name__ == "__main__":
    json.dump(make_package_config(), sys.stdout, indent=2)
