"""Traits: everything about an operator besides how its axes relate, the rest of its row in `operators.tables`.

    "Relu": Row(elementwise, zero="keeps", rectifies=True)

Costs, dead channels, moments, solvers, masks, calibration and proofs ask these traits and know no operator by name.
What is not said of an operator is not assumed: the defaults are those of one of which only the rule is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

EVERY_NAME = "*"
UNCOUNTED = "?"
Zero = Literal["", "keeps", "sum", "multiply", "product", "gain", "clip", "pad", "resize", "fill", "cell"]
Kernel = Literal["", "convolution", "transposed", "matrix"]
NO_ATTRIBUTES: Mapping[str, int] = {}


@dataclass(frozen=True)
class Norm:
    """A normalisation: what its statistics are taken over, and where its operands are.

    over        "axis": every axis from the attribute `axis` on; "axes": those of the attribute `axes`; "space": all
                behind the channels; "groups": space and the channels of a group; "batch": all but the channels
    gain        input slot of the gain; a bias comes behind it where values are centred
    centred     is the mean subtracted?
    sum_output  output slot where a fused operator gives what it normalises, or None
    epsilon     where the node gives none
    statistics  input slots of stored means and variances
    """

    over: Literal["axis", "axes", "space", "groups", "batch"] = "axis"
    gain: int = 1
    centred: bool = True
    sum_output: int | None = None
    epsilon: float = 1e-5
    statistics: tuple[int, ...] = ()

    @property
    def is_stored(self) -> bool:
        """Does it normalise by a mean and a variance that the file holds?"""
        return bool(self.statistics)

    @property
    def is_per_channel(self) -> bool:
        """Do gain and bias lie on axis 1, one entry per channel (or group)?"""
        return self.over in ("space", "groups", "batch")


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The properties of an operator with regard to numbers.

    macs           products that it sums: EVERY_NAME of its rule once, names of the rule (one product after another,
                   separated by commas), UNCOUNTED where it multiplies and accumulates and no count is known, or ""
    kernel         the class of its kernel: convolutions work on blocks of channels, matrix products do not
    stacks         a product of the last two axes of two stacks of matrices, nothing transposed (MatMul)
    bias           input slot of what it adds to its product; 0: none
    activation     an attribute names a function that is applied to what it contracts; the attribute with its number
    zero           which channels of the output are zero: "keeps": where all inputs are; "sum": so, if all inputs have
                   the channel; "multiply": where any input is; "product": where activation or weight is, and the bias;
                   "gain": where gain and bias are; "clip", "pad", "resize": as "keeps", depending on attributes;
                   "fill": all of them, where it fills with zeros; "cell": units whose candidate and state are zero
    one_output     this holds for the first output only
    neutral        what an entry has to be to change nothing in a reduction over it
    mean           a reduction that divides by the number of entries
    norm           what it normalises, and how
    zero_points    slots of the zero points of activation and weight; 0: it has none
    biased         adds a bias to what it contracts
    dequantizes    makes numbers with a fraction of integers
    unary          a function of every number of its only input
    additive       each input shows in the output whatever the others are
    arithmetic     an addition or a multiplication of two inputs
    power          its first input to the power of the second
    divides        its first input by the second
    sums           "plus": the sum of its inputs, "minus": the first less the second
    moves          gives numbers of its inputs, each as it is, in other places
    identity       gives its first input
    reorders       gives its first input, perhaps in another order, shape or type
    squashes       a function that grows and has limits
    rectifies      0 below zero, the identity above
    decides        "choice": which positions it gives depends on all numbers; "step": every number is rounded
    lookup         takes entries of its first input at positions, "plain" or "nested" in a last axis
    defaults       what an integer attribute is where a node does not give it
    """

    macs: str = ""
    kernel: Kernel = ""
    stacks: bool = False
    bias: int = 0
    activation: Literal["", "activation_alpha", "activation_params"] = ""
    zero: Zero = ""
    one_output: bool = False
    neutral: float = 0.0
    mean: bool = False
    norm: Norm | None = None
    zero_points: tuple[int, int] = (0, 0)
    biased: bool = False
    dequantizes: bool = False
    unary: bool = False
    additive: bool = False
    arithmetic: Literal["", "add", "multiply"] = ""
    power: bool = False
    divides: bool = False
    sums: Literal["", "plus", "minus"] = ""
    moves: bool = False
    identity: bool = False
    reorders: bool = False
    squashes: bool = False
    rectifies: bool = False
    decides: Literal["", "choice", "step"] = ""
    lookup: Literal["", "plain", "nested"] = ""
    defaults: Mapping[str, int] = field(default_factory=lambda: NO_ATTRIBUTES)

    @property
    def is_contraction(self) -> bool:
        """Does it multiply and accumulate, and is it known how often?"""
        return self.macs not in ("", UNCOUNTED)

    @property
    def is_convolution(self) -> bool:
        """Does its kernel work on blocks of channels?"""
        return self.kernel in ("convolution", "transposed")

    @property
    def is_quantized(self) -> bool:
        """Are its weights integers that count from a zero point?"""
        return any(self.zero_points)

    @property
    def is_linear(self) -> bool:
        """Is it a matrix product or a convolution of numbers with a fraction, and nothing else?"""
        return self.kernel != "" and not self.is_quantized and not self.activation
