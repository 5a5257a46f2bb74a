"""A data set as a model takes it, from whatever somebody has: a path, `script.py:name`, or an object of Python.

    data = open_dataset("photographs/", model, parse_preprocess(""))
    data = data.scale_pictures(values, "the graph")       # where --preprocess does not say how pixels are scaled
    for block in data.read_batches(): block.inputs, block.labels

Nothing is held whole but what the caller keeps of it, and arrays that lie in memory anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.datasets.fitting import InputSpec, list_specs
from spa_compiler.datasets.folders import find_kind, read_folder
from spa_compiler.datasets.labels import check_labels, find_labels
from spa_compiler.datasets.pictures import (
    PictureForm,
    Resizing,
    decode_picture,
    find_picture_form,
    plan_resizing,
    read_size,
)
from spa_compiler.datasets.preprocess import KEYS, PIXEL_KEYS, VALUE_KEYS, Preprocess, ValueMap
from spa_compiler.datasets.rows import (
    BLOCK_ROWS,
    ArrayFileRows,
    ArrayRows,
    Block,
    FileRows,
    RowSource,
    StreamRows,
    make_array_rows,
    open_array_file,
    regroup_blocks,
)
from spa_compiler.datasets.scripts import is_script, iterate_reader, read_script
from spa_compiler.datasets.sounds import SoundForm, decode_sound, find_sound_form, read_rate
from spa_compiler.datasets.texts import TextRows, check_ids, find_tokenizer, make_text_rows, read_text
from spa_compiler.errors import UsageError
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import has_common_batch

Array = NDArray[Any]
CHECKED_FILES = 64
"""Files whose headers are read before any work: what is wrong with a folder is wrong with its first files."""
PIXEL_VALUES = {"uint8": ValueMap(), "int8": ValueMap(mean=(128.0,))}
"""Inputs of whole numbers take pixels as they are, or around 0."""


@dataclass(frozen=True)
class Dataset:
    """Rows, and how they come about; `treatment` and `decided` say it for the report."""

    name: str
    kind: str  # pictures, sounds, texts, arrays or a stream of them
    rows: RowSource
    specs: Sequence[InputSpec]
    batch: int  # the model's fixed number of rows a run, or 0
    preprocess: Preprocess
    classes: int = 0
    label_rule: str = ""
    form: PictureForm | SoundForm | None = None
    resizing: Resizing | None = None
    values: ValueMap | None = None
    treatment: str = ""
    decided: str = ""

    @property
    def is_unscaled(self) -> bool:
        """Does nobody say yet how pixels are scaled?"""
        return self.kind == "pictures" and self.values is None

    @property
    def files(self) -> Sequence[Path]:
        """The files of its rows, where each is one."""
        return self.rows.files if isinstance(self.rows, FileRows) else ()

    def scale_pictures(self, values: ValueMap, decided: str) -> Dataset:
        """The same pictures with pixels scaled; the order of channels stays as it is said."""
        assert isinstance(self.form, PictureForm) and self.resizing is not None
        values = replace(values, bgr=self.preprocess.values.bgr or values.bgr)
        decode = partial(_decode_picture, self.specs[0], self.form, self.resizing, values)
        labels = self.rows.labels if isinstance(self.rows, FileRows) else None
        return replace(self, rows=FileRows(self.files, decode, labels), values=values, decided=decided)

    def read_batches(self, rows: Sequence[int] | None = None) -> Iterator[Block]:
        """Blocks as the model runs them: of its fixed size, else of at most BLOCK_ROWS rows.

        A fixed size leaves out an incomplete last block; rows of other shapes begin another; a run of inputs that
        share no first axis is one. Raises UsageError for what cannot be read, and for labels that the model cannot
        give.
        """
        if self.is_whole:
            yield from self._read_runs(rows)
            return
        for block in regroup_blocks(self.rows.read_blocks(rows), self.batch or BLOCK_ROWS, bool(self.batch)):
            check_labels(self.name, block.labels, self.classes)
            yield block

    def _read_runs(self, rows: Sequence[int] | None) -> Iterator[Block]:
        for block in self.rows.read_blocks(rows):
            check_labels(self.name, block.labels, self.classes)
            yield from block.split_runs()

    def look(self) -> Block:
        """The first block; of a stream it is given once more afterwards."""
        if isinstance(self.rows, StreamRows):
            return self.rows.look()
        return next(iter(self.rows.read_blocks([0])))

    @property
    def is_whole(self) -> bool:
        """Is a row all that a run is given, because inputs have no first axis in common?"""
        return any(s.is_whole for s in self.specs)

    def check(self) -> None:
        """Raise UsageError for what can be seen to be wrong before any work."""
        if isinstance(self.rows, StreamRows):
            check_labels(self.name, self.rows.look().labels, self.classes)
        elif isinstance(self.rows, FileRows):
            check_labels(self.name, self.rows.labels, self.classes)
            for file in self.files[:CHECKED_FILES]:
                (read_size if self.kind == "pictures" else read_rate)(file)
        elif isinstance(self.rows, ArrayRows):
            check_labels(self.name, self.rows.labels, self.classes)
            for _ in self.rows.read_blocks():
                pass
        elif isinstance(self.rows, ArrayFileRows):
            open_array_file(self.rows.files[0], self.specs, self.rows.values)
        else:
            next(iter(self.rows.read_blocks([0])))


def open_dataset(given: Any, model: Model, preprocess: Preprocess, name: str = "") -> Dataset:
    """A data set of a path, of `script.py:name` or of an object. Raises UsageError that says what is wrong with it.

    `name` is what messages call an object that was given in Python.
    """
    opening = _Opening(list_specs(model), model, preprocess)
    if isinstance(given, str | Path):
        text = str(given)
        if is_script(text):
            where, found = read_script(text)
            return opening.open_object(found, where, Path(text.rsplit(":", 1)[0]).name)
        return opening.open_path(Path(text))
    return opening.open_object(given, name, name)


@dataclass(frozen=True)
class _Opening:
    """Facts of the model while a data set is opened."""

    specs: list[InputSpec]
    model: Model
    preprocess: Preprocess

    @property
    def array_specs(self) -> list[InputSpec]:
        """The inputs as arrays are given for them: row by row, or run by run where they share no first axis."""
        return self.specs if has_common_batch(self.model) else [s.make_whole() for s in self.specs]

    def open_path(self, path: Path) -> Dataset:
        """A folder, or one file."""
        if path.is_dir():
            kind, files = read_folder(path)
            return self.open_files(path, kind, files)
        kind = find_kind(path)
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder" if not path.suffix else f"{path}: no such file")
        if kind in ("pictures", "sounds", "texts"):
            return self.open_files(path, kind, [path])
        return self.open_arrays(path.name, open_array_file(path, self.array_specs, self.array_values(path.name)))

    def open_files(self, path: Path, kind: str, files: list[Path]) -> Dataset:
        """Files of one kind."""
        labels, rule = find_labels(path, files) if path.is_dir() and kind != "arrays" else (None, "")
        if kind == "arrays":
            values = self.array_values(path.name)
            if len(files) == 1:
                return self.open_arrays(path.name, open_array_file(files[0], self.array_specs, values))
            return self.make("arrays", path.name, ArrayFileRows(files, self.array_specs, values), "", values)
        if kind == "texts":
            return self.open_texts(path, files, labels, rule)
        if len(self.specs) != 1:
            names = ", ".join(f"'{s.name}'" for s in self.specs)
            raise UsageError(
                f"{path}: {kind} are one input, the model has {len(self.specs)} ({names}): give arrays for all of "
                "them, or a script"
            )
        return (self.open_pictures if kind == "pictures" else self.open_sounds)(path, files, labels, rule)

    def open_pictures(self, path: Path, files: list[Path], labels: Array | None, rule: str) -> Dataset:
        """Pictures, whose pixels wait for a scale where none is said."""
        spec, said = self.specs[0], self.preprocess
        said.refuse(("rate",), str(path), "holds pictures")
        form = find_picture_form(spec.dims, said)
        if form is None or spec.dtype.kind not in "iuf":
            raise UsageError(
                f"{path}: pictures, and '{spec.name}' takes {list(spec.dims)} of {spec.dtype}, which is no picture"
            )
        resizing = plan_resizing(form, said)
        layout = "" if form.row == spec.dims[1:] and len(form.row) < 3 else ", NHWC" if form.is_last else ", NCHW"
        who = "--preprocess" if resizing.is_said else "the size of the input"
        made = replace(
            self.make("pictures", path.name, FileRows(files, _refuse_unscaled, labels), rule),
            form=form, resizing=resizing, treatment=f"{resizing.describe()}{layout} ({who})",
        )  # fmt: skip
        if said.has_values:
            return made.scale_pictures(said.values, "--preprocess")
        if spec.dtype.kind in "iu":
            return made.scale_pictures(PIXEL_VALUES.get(str(spec.dtype), ValueMap()), f"the input takes {spec.dtype}")
        return made

    def open_sounds(self, path: Path, files: list[Path], labels: Array | None, rule: str) -> Dataset:
        """Sounds as waveforms, at the rate that is said or at that of the first file."""
        spec, said = self.specs[0], self.preprocess
        said.refuse((*PIXEL_KEYS, "order"), str(path), "holds sounds")
        form = find_sound_form(spec.dims, said.rate)
        if form is None or spec.dtype.kind not in "if":
            raise UsageError(
                f"{path}: sounds, and '{spec.name}' takes {list(spec.dims)} of {spec.dtype}, which is no waveform: "
                "give what the model takes (its features) as arrays"
            )
        rate = said.rate or read_rate(files[0])
        values = said.values if said.has_values else ValueMap(32767.0 if spec.dtype.kind == "i" else 1.0)
        values = replace(values, scale=values.scale if "scale" in said.said or not said.has_values else 1.0)
        who = "--preprocess" if said.rate else f"as in {files[0].name}; --preprocess rate=16000 would say another"
        decode = partial(_decode_sound, spec, form, rate, values)
        length = f"cut or filled to {form.samples} samples, {form.channels} channels"
        return replace(
            self.make("sounds", path.name, FileRows(files, decode, labels), rule),
            form=form,
            values=values,
            decided="--preprocess" if said.has_values else "sounds lie in -1..1",
            treatment=f"{rate} samples a second ({who}), {length}",
        )

    def open_texts(self, path: Path, files: list[Path], labels: Array | None, rule: str) -> Dataset:
        """Lines of files, or whole files where sub-folders are classes, as ids."""
        self.preprocess.refuse(KEYS, str(path), "holds texts")
        folder = path if path.is_dir() else path.parent
        tokenizer = find_tokenizer([self.model.folder, folder])
        texts = [read_text(f) for f in files]
        if labels is None:
            texts = [line for text in texts for line in text.splitlines() if line.strip()]
        if not texts or not all(t.strip() for t in texts):
            empty = files[0] if not texts else files[next(k for k, t in enumerate(texts) if not t.strip())]
            raise UsageError(f"{empty}: it holds no text; take it out")
        made = make_text_rows(texts, tokenizer, self.specs, str(path))
        treatment = f"ids of {tokenizer.name}, cut or filled to {made.length} tokens"
        return replace(self.make("texts", path.name, _EncodedRows(made, str(path), labels), rule), treatment=treatment)

    def open_arrays(self, name: str, rows: ArrayRows) -> Dataset:
        """Arrays by input."""
        return self.make("arrays", name, rows, "y of the file" if rows.labels is not None else "", rows.values)

    def open_object(self, found: Any, where: str, name: str) -> Dataset:
        """An array, arrays by input, a reader with get_next, or anything that can be iterated."""
        values = self.array_values(where)
        if isinstance(found, Mapping):
            return self.open_arrays(name, self.convert_arrays(where, found, values))
        if hasattr(found, "get_next"):
            return self.open_stream(iterate_reader(found), where, name, values)
        if hasattr(found, "__array__") and not isinstance(found, Iterator):
            return self.open_arrays(name, self.convert_arrays(where, {self.specs[0].name: found}, values))
        if isinstance(found, list) and found and np.isscalar(_find_entry(found)):
            return self.open_arrays(name, self.convert_arrays(where, {self.specs[0].name: found}, values))
        if isinstance(found, Iterable) and not isinstance(found, str | bytes):
            return self.open_stream(iter(found), where, name, values)
        raise UsageError(
            f"{where}: it is {'nothing' if found is None else 'of type ' + type(found).__name__}: expected an array, "
            "arrays by input, an iterator of them, or a reader with get_next()"
        )

    def convert_arrays(self, where: str, found: Mapping[str, Any], values: ValueMap | None) -> ArrayRows:
        """Arrays of what can be made one."""
        try:
            arrays = {str(n): np.asarray(a) for n, a in found.items()}
        except (ValueError, TypeError, RuntimeError) as e:
            raise UsageError(f"{where}: not arrays of numbers ({e})") from e
        return make_array_rows(where, arrays, self.array_specs, values)

    def open_stream(self, items: Iterator[Any], where: str, name: str, values: ValueMap | None) -> Dataset:
        """Items as they come."""
        return self.make("stream", name, StreamRows(where, items, self.array_specs, values), "", values)

    def array_values(self, name: str) -> ValueMap | None:
        """The map of the values of arrays: none but what is said; their scale is 1 where it is not."""
        said = self.preprocess
        said.refuse(("resize", "crop", "rate"), name, "holds arrays, which are taken as they are but for their values")
        if not any(k in said.said for k in VALUE_KEYS):
            return None
        return said.values if "scale" in said.said else replace(said.values, scale=1.0)

    def make(self, kind: str, name: str, rows: RowSource, rule: str, values: ValueMap | None = None) -> Dataset:
        """A data set with what follows from the model."""
        outputs = self.model.header.graph.output
        dims = [d.dim_value for d in outputs[0].type.tensor_type.shape.dim] if outputs else []
        classes = dims[1] if len(dims) == 2 else 0
        specs = self.array_specs if kind in ("arrays", "stream") else self.specs
        fixed = max(specs[0].dims[0], 0) if specs and specs[0].dims else 0
        decided = "--preprocess" if values is not None else ""
        return Dataset(name, kind, rows, specs, fixed, self.preprocess, classes, rule, values=values, decided=decided)


def _find_entry(found: Any) -> Any:
    """The first entry of nested lists."""
    while isinstance(found, list | tuple) and found:
        found = found[0]
    return found


@dataclass(frozen=True)
class _EncodedRows:
    """Rows of texts."""

    made: TextRows
    where: str
    labels: Array | None

    @property
    def count(self) -> int:
        return len(self.made.texts)

    def read_blocks(self, rows: Sequence[int] | None = None) -> Iterator[Block]:
        wanted = list(range(self.count)) if rows is None else list(rows)
        for at in range(0, len(wanted), BLOCK_ROWS):
            part = wanted[at : at + BLOCK_ROWS]
            found = [self.made.encode(self.made.texts[k]) for k in part]
            inputs = {s.name: np.stack([r[s.name] for r in found]) for s in self.made.specs}
            check_ids(self.where, inputs, self.made.specs)
            yield Block(inputs, None if self.labels is None else self.labels[part])


def _refuse_unscaled(path: Path) -> dict[str, Array]:
    raise UsageError(f"{path}: nobody has said yet how its pixels are scaled")


def _decode_picture(
    spec: InputSpec, form: PictureForm, resizing: Resizing, values: ValueMap, path: Path
) -> dict[str, Array]:
    """One picture as a row of the input."""
    x = values.apply(decode_picture(path, form, resizing), 2)
    x = x if form.is_last else np.moveaxis(x, 2, 0)
    return {spec.name: _cast(spec, x).reshape(form.row)}


def _decode_sound(spec: InputSpec, form: SoundForm, rate: int, values: ValueMap, path: Path) -> dict[str, Array]:
    """One sound as a row of the input."""
    x = values.apply(decode_sound(path, form, rate), 0)
    return {spec.name: _cast(spec, x.T if form.is_last else x).reshape(form.row)}


def _cast(spec: InputSpec, x: Array) -> Array:
    """Values in the input's type, rounded and cut to what it holds."""
    if spec.dtype.kind in "iu":
        info = np.iinfo(spec.dtype)
        x = np.clip(np.rint(x), info.min, info.max)
    return x.astype(spec.dtype)


def list_spread(count: int, wanted: int) -> list[int]:
    """So many numbers below `count`, evenly spread: of a folder whose sub-folders are classes, some of each."""
    return [k * count // wanted for k in range(wanted)] if wanted < count else list(range(count))
