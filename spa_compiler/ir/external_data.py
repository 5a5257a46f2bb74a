"""Tensors of untrusted files: nothing outside the model's folder is read, and sizes are checked before memory is taken.

    check_tensor(tensor, folder)       # raises ModelError
    read_tensor(tensor, folder)        # a numpy array; external data is mapped, not copied
    densify(sparse, folder)            # a sparse tensor as a numpy array

Whoever needs the numbers of a tensor asks here: onnx's own reader takes paths relative to the working folder.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from spa_compiler.errors import ModelError
from spa_compiler.ir.tensors import describe_tensor, iterate_sparse_tensors, iterate_tensors

PROTOBUF_LIMIT = (1 << 31) - (1 << 20)
"""Bytes that a protobuf file holds at most, and so all that is written into one."""
PACKED = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
BITS = {getattr(onnx.TensorProto, n): bits for n, bits in PACKED.items() if hasattr(onnx.TensorProto, n)}
"""Element types of which one element takes less than a byte, and its bits."""
PLAIN_TYPES = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}
MEMORY_LOCATION = "_ORT_MEM_ADDR_"
"""In a location it makes onnxruntime read the memory of its own process in place of a file."""
LARGEST_SIZE = (1 << 62) - 1
DENSE_COPIES = 3
"""How often a sparse tensor is there while it becomes dense: as numbers, as bytes, and in the graph."""
Array = NDArray[Any]


def is_external(tensor: onnx.TensorProto) -> bool:
    """Do the numbers lie in another file?"""
    return external_data_helper.uses_external_data(tensor)


def check_tensors(proto: onnx.ModelProto, path: Path, memory: int = DENSE_COPIES * PROTOBUF_LIMIT) -> None:
    """Refuse a model with a tensor, dense or sparse, wherever it lies, that cannot be read safely.

    Sparse tensors may take `memory` bytes together when they are dense.

    Raises ModelError that names the model, the tensor's place and what it needs.
    """
    for tensor, holders in iterate_tensors(proto):
        try:
            check_tensor(tensor, path.parent)
        except ModelError as e:
            raise ModelError(f"{path}: {describe_tensor(tensor, holders)} {e}") from e
    total = 0
    for sparse, holders in iterate_sparse_tensors(proto):
        try:
            total += _count_bytes(sparse.values.data_type, _count_elements(list(sparse.dims)))
            if total > PROTOBUF_LIMIT or total * DENSE_COPIES > memory:
                needs = f"{total:,} bytes with those before it"
                if total <= PROTOBUF_LIMIT:
                    needs += f", {DENSE_COPIES} times at once, and --memory allows {memory:,}"
                raise ModelError(f"of shape {list(sparse.dims)} is too large to be written dense: {needs}")
        except ModelError as e:
            raise ModelError(f"{path}: {describe_tensor(sparse, holders)} {e}") from e


def check_tensor(tensor: onnx.TensorProto, folder: Path) -> None:
    """Refuse a tensor that does not hold what its shape and type need, or whose data may not be read.

    The ModelError has no subject: whoever calls says which tensor it is. What a tensor holds is only decoded where its
    type is unusual.
    """
    if tensor.HasField("segment"):
        raise ModelError("is a segment of a larger tensor, which no runtime reads: save it as a whole")
    if is_external(tensor):
        _locate(tensor, folder)
        return
    dims = list(tensor.dims)
    elements = _count_elements(dims)
    if tensor.HasField("raw_data") and tensor.data_type in PLAIN_TYPES:
        wanted = _count_bytes(tensor.data_type, elements)
        if len(tensor.raw_data) != wanted:
            raise ModelError(f"holds {len(tensor.raw_data)} bytes, its shape {dims} needs {wanted}")
        return
    if elements > 4 * tensor.ByteSize():  # the smallest element takes 2 bits
        raise ModelError(f"holds less than its shape {dims} needs")
    try:
        numpy_helper.to_array(tensor)
    except Exception as e:
        raise ModelError(f"does not hold what its type and shape {dims} need ({e})") from e


def _count_elements(dims: list[int]) -> int:
    if any(d < 0 for d in dims):
        raise ModelError(f"has a negative size {dims}")
    if math.prod(d for d in dims if d) > LARGEST_SIZE:  # no array can have it, not even an empty one
        raise ModelError(f"has a size out of reach {dims}")
    return math.prod(dims)


def _count_bytes(kind: int, elements: int) -> int:
    """Bytes of so many elements of an ONNX type. Raises ModelError for one that has no fixed size."""
    try:
        bits = BITS.get(kind) or 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    except (KeyError, ValueError, TypeError) as e:
        raise ModelError(f"has an element type that does not exist ({kind})") from e
    if kind == onnx.TensorProto.STRING:
        raise ModelError("holds text, which has no fixed size")
    return (elements * bits + 7) // 8


def _read_entries(tensor: onnx.TensorProto) -> dict[str, str]:
    """The entries of a tensor about its data. A key given twice is refused: readers disagree on which counts."""
    out: dict[str, str] = {}
    for entry in tensor.external_data:
        if not isinstance(entry.key, str) or not isinstance(entry.value, str):
            raise ModelError("says where its external data is in a text that is not UTF-8")
        if entry.key in out:
            raise ModelError(f"says twice what the {entry.key} of its external data is")
        out[entry.key] = entry.value
    return out


def _read_number(entries: dict[str, str], name: str, default: int) -> int:
    text = entries.get(name) or str(default)
    if not (text.isascii() and text.isdigit()):
        raise ModelError(f"gives '{text}' as the {name} of its external data, which is no number of bytes")
    return int(text) if len(text) < 20 else 1 << 63


def _locate(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and length of an external tensor, links resolved. Raises ModelError for what lies elsewhere."""
    entries = _read_entries(tensor)
    location = entries.get("location", "")
    place = PurePosixPath(location)
    if not location or place.is_absolute() or ".." in place.parts or "\\" in location or MEMORY_LOCATION in location:
        raise ModelError(
            f"has external data at '{location}', which is refused: only files inside the model's folder are read"
        )
    try:
        file, root = (folder / place).resolve(), folder.resolve()
        if root not in file.parents:
            raise ModelError(f"has external data at '{location}', a link that leaves the model's folder")
        if not file.is_file():
            raise ModelError(f"has external data at '{location}': this file is missing")
        size = file.stat().st_size
    except (OSError, ValueError, RuntimeError) as e:  # too long, a NUL, links in a circle
        raise ModelError(f"has external data at '{location}', which cannot be read: {e}") from e
    dims = list(tensor.dims)
    needed = _count_bytes(tensor.data_type, _count_elements(dims))
    offset, length = _read_number(entries, "offset", 0), _read_number(entries, "length", needed)
    if length != needed or offset + length > size:
        raise ModelError(
            f"of shape {dims} needs {needed} bytes; '{location}' ({size} bytes) gives {length} at {offset}"
        )
    return file, offset, length


def find_locations(proto: onnx.ModelProto) -> frozenset[str]:
    """The files that hold tensors of the model, wherever in it those are; relative to its folder."""
    return frozenset(_read_entries(t).get("location", "") for t, _ in iterate_tensors(proto) if is_external(t))


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> Array:
    """The values of a tensor; those of external data are mapped from the file and not copied.

    Raises ModelError, without a subject, for data that may not be read or does not fit.
    """
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    file, offset, length = _locate(tensor, folder)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    try:
        if length == 0:
            return np.zeros(tuple(tensor.dims), dtype)
        if tensor.data_type not in BITS:
            return np.memmap(file, dtype, "r", offset, tuple(tensor.dims))
        raw = np.memmap(file, np.uint8, "r", offset, (length,)).tobytes()
    except (OSError, ValueError) as e:
        raise ModelError(f"has external data in {file.name}, which cannot be read: {e}") from e
    return numpy_helper.to_array(onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw))


def read_bytes(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """The numbers of a tensor as a file holds them."""
    if not is_external(tensor):
        return tensor.raw_data or numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    file, offset, length = _locate(tensor, folder)
    return np.memmap(file, np.uint8, "r", offset, (length,)).tobytes() if length else b""


def embed_tensor(tensor: onnx.TensorProto, folder: Path, room: int = PROTOBUF_LIMIT) -> int:
    """Take external data into the tensor itself (in place); returns how many bytes that were.

    Raises ModelError, without a subject, for more bytes than there is room.
    """
    if not is_external(tensor):
        return 0
    if _locate(tensor, folder)[2] > room:
        raise ModelError("has more external data than one file can hold, and only initializers may stay outside of it")
    raw = read_bytes(tensor, folder)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = raw
    return len(raw)


def densify(sparse: onnx.SparseTensorProto, folder: Path) -> Array:
    """The dense array of a sparse tensor. Raises ModelError, without a subject, for one that cannot be read."""
    dims = list(sparse.dims)
    if _count_bytes(sparse.values.data_type, _count_elements(dims)) > PROTOBUF_LIMIT:
        raise ModelError(f"of shape {dims} cannot be read: too large to be written dense")
    try:
        values, at = read_tensor(sparse.values, folder), read_tensor(sparse.indices, folder)
        out = np.zeros(dims, values.dtype)
        if at.size and at.min() < 0:
            raise ValueError("a negative index")
        out.ravel()[np.ravel_multi_index(tuple(at.T), dims) if at.ndim == 2 else at] = values
    except ModelError as e:
        raise ModelError(f"of shape {dims} cannot be read: {e}") from e
    except Exception as e:
        raise ModelError(f"of shape {dims} cannot be read: {e}") from e
    return out


def make_data_name(model: str, digest: str) -> str:
    """The name of the external data file beside a model of this name; `digest`: hash of its content."""
    return f"{model}.{digest[:16]}.data"


def externalize(proto: onnx.ModelProto, source: Path, target: Path) -> onnx.ModelProto:
    """Stream what is external, and every initializer of a kilobyte or more, into one data file beside the target."""
    scratch, digest, at = target.with_name(f"{target.name}.data"), hashlib.sha256(), 0
    moved: list[tuple[onnx.TensorProto, int, int]] = []
    with open(scratch, "wb") as data:
        for t, holders in iterate_tensors(proto):
            large = len(holders) == 2 and t.ByteSize() >= 1024 and t.data_type != onnx.TensorProto.STRING
            if not large and not is_external(t):
                continue
            raw = read_bytes(t, source)
            gap = b"\0" * (-at % 4096)
            for part in (gap, raw):
                data.write(part)
                digest.update(part)
            moved.append((t, at + len(gap), len(raw)))
            at += len(gap) + len(raw)
            t.ClearField(_describe_storage(t))
            t.raw_data = b""  # what set_external_data asks for
    location = make_data_name(target.name, digest.hexdigest())
    for t, offset, length in moved:
        external_data_helper.set_external_data(t, location, offset, length)
        t.ClearField("raw_data")
        t.data_location = onnx.TensorProto.EXTERNAL
    if moved:
        scratch.replace(target.with_name(location))
    else:
        scratch.unlink()
    return proto


def _describe_storage(t: onnx.TensorProto) -> str:
    return "raw_data" if t.HasField("raw_data") else onnx.helper.tensor_dtype_to_field(t.data_type)
