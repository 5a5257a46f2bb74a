"""Facts of operators: affine maps, what grows, what is exact."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from spa_compiler.operators.facts import can_grow, find_affine, is_exact_in_reference

OPERATIONS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("first", [True, False])
def test_an_affine_map_is_the_operator(op: str, first: bool) -> None:
    affine = find_affine(op, 4.0, first)
    if op == "Div" and not first:
        assert affine is None
    else:
        assert affine is not None
        operands = (3.0, 4.0) if first else (4.0, 3.0)
        assert affine[0] * 3.0 + affine[1] == OPERATIONS[op](*operands)


def test_no_other_operator_is_affine() -> None:
    assert find_affine("Relu", 1.0, True) is None


def test_what_may_grow_is_asked_for_its_size_first() -> None:
    few, many = np.zeros(3), np.zeros(1 << 10)
    for op in ("Range", "ConstantOfShape", "Expand", "Tile", "Pad", "EyeLike", "HannWindow", "Resize", "OneHot"):
        assert can_grow(op, [few], 16)
    assert not can_grow("Gather", [few, few], 16) and not can_grow("Concat", [few, np.zeros(0)], 16)
    assert can_grow("Add", [many, many], 1 << 16)  # an outer sum


@pytest.mark.parametrize(("step", "exact"), [(1, True), (-1, False)])
def test_the_reference_is_not_asked_for_slices_backwards(step: int, exact: bool) -> None:
    node = helper.make_node("Slice", ["x0", "x1", "x2", "x1", "x3"], ["y0"])
    operands = [np.arange(4), np.array([0]), np.array([4]), np.array([step])]
    assert is_exact_in_reference(node, operands) is exact


def test_the_reference_is_asked_for_divisions_of_sizes_only() -> None:
    node = helper.make_node("Div", ["x0", "x1"], ["y0"])
    assert is_exact_in_reference(node, [np.array([7]), np.array([2])])
    assert not is_exact_in_reference(node, [np.array([-7]), np.array([2])])
    assert not is_exact_in_reference(node, [np.array([7.0]), np.array([2.0])])
