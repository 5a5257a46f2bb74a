"""External data of untrusted files: nothing outside the model's folder is read, and sizes are checked first."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import ExternalDataInfo

from spa_compiler.errors import ModelError


def _bytes_needed(tensor: onnx.TensorProto) -> int:
    elements = 1
    for d in tensor.dims:
        elements *= int(d)
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return (elements + 1) // 2
    return elements * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _locate(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and length of an external tensor. Raises ModelError for a path that leaves the folder."""
    info = ExternalDataInfo(tensor)
    place = PurePosixPath(info.location)
    if not info.location or place.is_absolute() or ".." in place.parts or "\\" in info.location:
        raise ModelError(
            f"initializer '{tensor.name}': external data at '{info.location}' is refused: "
            "only files inside the model's folder are read"
        )
    file, root = (folder / place).resolve(), folder.resolve()
    if root not in file.parents:
        raise ModelError(f"initializer '{tensor.name}': '{info.location}' is a link that leaves the model's folder")
    if not file.is_file():
        raise ModelError(f"initializer '{tensor.name}': external data file '{info.location}' is missing")
    needed = _bytes_needed(tensor)
    offset, length = int(info.offset or 0), int(info.length or needed)
    if length != needed or offset < 0 or offset + length > file.stat().st_size:
        raise ModelError(
            f"initializer '{tensor.name}': shape {list(tensor.dims)} needs {needed} bytes; '{info.location}' "
            f"({file.stat().st_size} bytes) gives {length} at {offset}"
        )
    return file, offset, length


def check_external(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse a tensor whose data cannot be read safely; the message names the model."""
    try:
        _locate(tensor, path.parent)
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from e


def read_external(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    """The values of an external tensor, mapped from the file and not copied."""
    file, offset, length = _locate(tensor, folder)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if length == 0:
        return np.zeros(tuple(tensor.dims), dtype)
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        raw = np.memmap(file, np.uint8, "r", offset, (length,))
        copy = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw.tobytes())
        return onnx.numpy_helper.to_array(copy)
    return np.memmap(file, dtype, "r", offset, tuple(tensor.dims))
