"""The worth of a compiled model: inputs to judge by, evidence, an estimated drop with a verdict, and gates.

inputs      which inputs tell: given ones, those kept apart from calibration, drawn ones, noise
evidence    how far the compiled outputs are from the dense ones, in numbers that an estimate reads
estimate    the drop of the metric that such evidence stands for, and how sure that is
verdict     GOOD, FAIR, POOR or UNKNOWN, and what to do about it
gates       `--fail-under`: limits of what a run measured
"""
