"""Rewrites that change nothing about a model's results and make its axes free: before the algebra sees the graph.

- `bypass`: whoever reads the Identity of a constant reads the constant.
- `untie`: a small constant that several nodes share is shared for its value, not for its meaning: one copy per use.
- `retie`: the reverse, for the file that is written.
- `permutations`: a chain of Reshape and Transpose that only permutes one axis (a channel shuffle) becomes a Gather.
- `selection_first`: Linear -> Reshape(.. 3 h d) -> Transpose -> pick on the digit 3 (fused qkv) becomes a Slice of the
  linear output and the chain without that digit, so that q, k and v have sizes of their own. What treats every number
  alike (a scale, QuantizeLinear) may stand anywhere in between: it is done after the pick.
- `drop_dead`: nodes that nobody reads.

Every function changes the graph it is given and returns how much it changed.
"""

from __future__ import annotations

from spa_compiler.algebra.sizes import Size

Axes = tuple[Size, ...]
