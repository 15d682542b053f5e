"""Settings of small sweeps."""

from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.evaluate.sweep.search_space import SweepSettings


def wanted(run, reference, **more):
    """Return settings of a sweep of the run over six candidates, changed by `more`."""
    scoring = ScoreSettings(None, str(reference), device="cpu", labels="uniform", seed=3)
    asked = {"guidance": "1:3:1", "interval": "all,0.5:20", "n": 16, "confirm": 24}
    return SweepSettings(run, scoring, **asked | more)
