"""Folders: one kind of data, labels by sub-folders, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inputs import CLASSES, load_classifier, save_picture
from spa_compiler.datasets.dataset import Dataset, list_spread, open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.datasets.rows import join_blocks
from spa_compiler.errors import UsageError

SHAPE: list[int | str] = ["N", 3, 8, 8]


def open_folder(folder: Path) -> Dataset:
    data = open_dataset(folder, load_classifier(SHAPE), parse_preprocess("scale=1/255"))
    data.check()
    return data


def fill(folder: Path, *names: str) -> Path:
    for k, name in enumerate(names):
        save_picture(folder / name, seed=k)
    return folder


def labels_of(data: Dataset) -> list[int]:
    labels = join_blocks(data.read_batches()).labels
    assert labels is not None
    return labels.tolist()


def test_pictures_of_other_sizes_and_kinds_are_one_batch(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.jpg", "C.JPEG", "d.webp")
    save_picture(tmp_path / "e.png", 300, 20)
    data = open_folder(tmp_path)
    assert join_blocks(data.read_batches()).inputs["x"].shape == (5, 3, 8, 8)
    assert "no labels" in data.label_rule


def test_sub_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    data = open_folder(fill(tmp_path, "dog/b.png", "cat/z.png", "cat/inner/a.png", "eel/a.png"))
    assert labels_of(data) == [0, 0, 1, 2] and "sorted order (cat=0, dog=1, eel=2)" in data.label_rule


def test_sub_folders_that_are_numbers_are_these_classes(tmp_path: Path) -> None:
    data = open_folder(fill(tmp_path, "3/a.png", "1/b.png", "1/c.png"))
    assert sorted(labels_of(data)) == [1, 1, 3] and "number of the class" in data.label_rule


@pytest.mark.parametrize("name", ["labels.txt", "classes.txt"])
@pytest.mark.parametrize("lines", ["eel\ndog\ncat\n", "eel\n\ncat, Felis\n", "eel, Anguilla\r\ndog\r\ncat\r\n"])
def test_a_list_of_names_numbers_the_classes_by_its_lines(tmp_path: Path, name: str, lines: str) -> None:
    fill(tmp_path, "cat/a.png", "eel/b.png")
    (tmp_path / name).write_bytes(lines.encode())
    data = open_folder(tmp_path)
    assert labels_of(data) == [2, 0] and name in data.label_rule


def test_a_class_that_the_list_does_not_have_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "labels.txt").write_text("cat\n")
    with pytest.raises(UsageError, match=r"labels\.txt: no line names the sub-folder 'dog'"):
        open_folder(tmp_path)


def test_one_sub_folder_tells_no_classes_apart(tmp_path: Path) -> None:
    data = open_folder(fill(tmp_path, "all/a.png", "all/b.png"))
    assert join_blocks(data.read_batches()).labels is None


@pytest.mark.parametrize("name", [str(CLASSES), "99"])
def test_a_class_that_the_model_does_not_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"a label is {name}, and the model has the classes 0 to {CLASSES - 1}"):
        open_folder(fill(tmp_path, "0/a.png", f"{name}/b.png"))


def test_a_picture_beside_sub_folders_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"loose\.png: it lies beside sub-folders"):
        open_folder(fill(tmp_path, "cat/a.png", "dog/b.png", "loose.png"))


@pytest.mark.parametrize("name", ["notes.txt", "list.csv", "more.npz", "sub/readme.md"])
def test_a_file_of_another_kind_among_pictures_is_named(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "a.png", "b.png", "sub/c.png")
    (tmp_path / name).write_text("text")
    with pytest.raises(UsageError, match=f"{Path(name).name}: a file of another kind among 3 pictures: take it out"):
        open_folder(tmp_path)


def test_files_that_systems_leave_behind_are_no_data(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    for name in (".DS_Store", "Thumbs.db", "._a.png", ".cache/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert open_folder(tmp_path).rows.count == 1


@pytest.mark.parametrize("name", ["", "model.bin"])
def test_a_folder_without_data_says_what_was_expected(tmp_path: Path, name: str) -> None:
    if name:
        (tmp_path / name).write_text("x")
    with pytest.raises(UsageError, match=r"no inputs in this folder, .*: expected files that end in \.jpg"):
        open_folder(tmp_path)


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        open_folder(tmp_path / "nowhere")


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    fill(tmp_path / "here", "a.png")
    (tmp_path / "here" / "up").symlink_to(tmp_path)
    assert open_folder(tmp_path / "here").rows.count == 1


def test_a_folder_of_arrays_may_hold_other_files(tmp_path: Path) -> None:
    for k in range(3):
        np.save(tmp_path / f"{k}.npy", np.full((2, 3, 8, 8), k, np.float32))
    (tmp_path / "make.py").write_text("")
    data = open_dataset(tmp_path, load_classifier(SHAPE), parse_preprocess(""))
    assert join_blocks(data.read_batches()).inputs["x"][:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("count", "wanted"), [(10, 3), (64, 64), (3, 8), (1000, 7)])
def test_a_spread_choice_is_in_order_without_repetition(count: int, wanted: int) -> None:
    found = list_spread(count, wanted)
    assert found == sorted(set(found)) and len(found) == min(count, wanted) and found[0] == 0 and found[-1] < count
    assert max(np.diff([*found, count])) - min(np.diff([*found, count])) <= 1
