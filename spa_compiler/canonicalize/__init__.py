"""Rewrites that change no result and make the axes of a graph free, before the analysis sees it.

- `constant_sharing.bypass`: whoever reads the Identity of a constant reads the constant.
- `constant_sharing`: a small constant that several nodes share is shared for its value, not for its meaning: one copy
  per use, and the reverse for the file that is written.
- `channel_shuffle`: a chain of Reshape and Transpose that only permutes one axis becomes a Gather.
- `hoist_selection`: Linear -> Reshape(.. 3 h d) -> Transpose -> pick on the digit 3 (fused qkv) becomes a Slice of the
  linear output and the chain without that digit, so that q, k and v have sizes of their own. What treats every number
  alike (a scale, QuantizeLinear) may stand anywhere in between: it is done after the pick.
- `counted_positions`: gathers that move nothing, scatters that write one piece.
- `inline_control_flow`, `constant_folding`, `sequences`: what is known at every size replaces what computes it.

Every function changes the graph it is given and returns how much it changed.
"""
