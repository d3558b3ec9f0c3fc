"""The acceptance gate: 35 criteria, each with a verdict and figures, on whatever target it is pointed at.

The tests are in `conformance/` (inside the wheel: `cdcpipe/conformance/suite`); this package is what stands behind
them: the criteria, how outcomes become verdicts, the report, and what the fixtures of the pytest plugin give.

**Verdicts of a criterion.** `pass` needs a test that passed *and* left figures. A failed assertion is `fail`. What
couldn't be judged, for whatever reason, is `inconclusive`. `not applicable` comes with the reason, `waived` with the
day on which the waiver ends, and what nobody ran is `not run`. Only `pass`, `not applicable` and `waived` let the gate
pass, and at least one criterion must have passed.
"""
