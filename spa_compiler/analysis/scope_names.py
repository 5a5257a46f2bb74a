"""Names that people know: of modules, read off the metadata, the paths and the weights that exporters leave.

read_module(node)                           # 'layers.0.attn' of PyTorch's pkg.torch.onnx.name_scopes
read_path("/features/features.1/conv/Conv")  # 'features.1.conv'
read_stem("layers.0.attn.qkv.bias")         # 'layers.0.attn.qkv'
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

import onnx

from spa_compiler.operators.tables import TABLES

SCOPES = "pkg.torch.onnx.name_scopes"
"""Key of a node's metadata: the modules around it from the outermost on, and its own name last."""
NO_SCOPE = re.compile(r"_empty_nn_module_stack.*")
PARAMETER = re.compile(
    r"(?i)[._/](?:weight(?:_bias)?|weights|bias|kernel|gamma|beta|embeddings?|alpha|running_mean|running_var|weight_[ih]h(?:_l\d+)?|bias_[ih]h(?:_l\d+)?|w|b|r|[wb]_\d+)"
    r"(?:_quantized|_dequant|_deepcopy_\d+|_fused_bn|:\d+)*$"
)
"""The end of a weight's name that says which parameter of its module it is."""
FOLDED = "ConstantFolding/"
"""TensorFlow writes this before the names of what it has folded."""
MADE_UP = re.compile(r"::|^p2o\.|^auto\.|^(?:[a-zA-Z0-9]+_)*_*\d+(?:_quantized)?$|^[A-Za-z]?\d+$|__\d+$|@\d+$")
"""Names that an exporter counts: `onnx::Conv_97`, `val_13`, `p2o.Conv.1`, `427`, `const_fold_opt__64`."""
PATH_ENDS = frozenset(n for names in TABLES.values() for n in names) | frozenset(
    "ReadVariableOp BiasAdd Tensordot Conv1D Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput BatchMatMulV2 "
    "convolution depthwise separable_conv2d merged_input resource read".split()
)
"""Last parts of paths that name an operation and no module, as TensorFlow and ONNX write them."""


def read_module(node: onnx.NodeProto) -> str:
    """The module that a node lies in by its metadata; '' without."""
    text = next((p.value for p in node.metadata_props if p.key == SCOPES), "")
    try:
        scopes = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # metadata are free text
        return ""
    if not isinstance(scopes, list) or len(scopes) < 2 or not isinstance(scopes[-2], str):
        return ""
    return "" if NO_SCOPE.fullmatch(scopes[-2]) else scopes[-2]


def read_path(name: str) -> str:
    """The module in the name of a node that has a path, without the operation at its end; '' without a path."""
    is_torch = name.startswith("/")
    parts = re.sub(r":\d+$", "", name.split(";")[0]).strip("/").split("/")
    return ("." if is_torch else "/").join(_drop_operations(_join_nested(parts)[:-1]))


def read_stem(name: str) -> str:
    """The module that a weight belongs to by its name; '' where an exporter made that up."""
    name = name.removeprefix(FOLDED)
    if found := PARAMETER.search(name) if "::" not in name else None:
        stem = name[: found.start()].lstrip("/")
        is_path = "/" in name or "." in name
        return ("/".join(_drop_operations(stem.split("/"))) or stem) if is_path or not MADE_UP.search(stem) else ""
    if MADE_UP.search(name):
        return ""
    return read_path(name) if "/" in name else re.sub(r":\d+$", "", name)


def find_common_scope(names: Sequence[str]) -> str:
    """The innermost module that holds all of these; '' where there is none, or only the model."""
    rows = [re.split(r"([./])", n) for n in names]
    common = []
    for parts in zip(*rows, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    is_whole = bool(rows) and all(len(common) == len(r) for r in rows)
    while common and not is_whole and (common[-1] in "./" or not _is_boundary(rows, len(common))):
        common.pop()
    return "".join(common)


def count_levels(name: str) -> int:
    """Modules that a name goes through."""
    return len(re.split(r"[./]", name)) if name else 0


def _is_boundary(rows: Sequence[Sequence[str]], length: int) -> bool:
    """Does every name end here, or go on in a module inside?"""
    return all(len(r) == length or r[length] in "./" for r in rows)


def _join_nested(parts: list[str]) -> list[str]:
    """TorchScript names the modules of a list by the list's name and their own: `body`, `body.0` is `body.0`."""
    return [p for p, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{p}.")]


def _drop_operations(parts: list[str]) -> list[str]:
    out = list(parts)
    while out and re.sub(r"_\d+$", "", out[-1]) in PATH_ENDS:
        out.pop()
    return out


__all__ = ["count_levels", "find_common_scope", "read_module", "read_path", "read_stem"]
