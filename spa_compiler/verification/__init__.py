"""The proof of a compiled model, and its fidelity, latency and accuracy.

proof        source = normalised, and pruned = masked, at the sizes of the analysis and at others
comparison   how two values are compared
sizes        at which sizes of the symbolic axes
feeds        what is fed: one place draws the inputs of every check
masked       pruned beside masked, for one plan and one choice of branches
source       the file that was given beside the normalised graph
runs         a model that is opened once and run for many feeds
inside       which values inside of the graph are compared, and how weights that inputs do not reach are driven
power        whether a proof can see every group that loses a unit
branches     every branch of an If takes its turn
replay       decisions that rounding may turn are taken once
culprit      the groups that break a proof, and the plan without them
signature, fidelity, latency    the compiled file beside the dense one
"""
