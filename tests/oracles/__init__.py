"""Second, slow opinions on the published formulas: plain float64 loops, written from the papers' sheets alone.

Nothing here imports autoprune or torch. Tests of parts compare with these functions: `from oracles import attention`.
Where a sheet leaves something open, the docstring of the function says what was decided ("Decided: ...").
"""
