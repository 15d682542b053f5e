"""`hdit bench data`: its output for invented figures."""

from hdit_cli.main import main
from hdit_core.bench import data
from hdit_core.bench.data import DataFigures
from hdit_core.bench.open_data import OpeningFigures
from hdit_core.bench.timing import Timing


def says(text, line):
    """Return whether a line of the text has these words and no others."""
    return line.split() in [each.split() for each in text.splitlines()]


def test_data_prints_rates_with_their_lower_bounds(monkeypatch, tmp_path, capsys):
    timings = {
        "prepare bound": Timing((1.0,)),
        "prepare": Timing((2.0,)),
        "prepare with 2": Timing((0.5,)),
        "read bound": Timing((0.1,)),
        "read": Timing((0.2,)),
    }
    figures = DataFigures(30, (64, 48), timings, {1000: 2e-6}, OpeningFigures(5000, 0.25, 3 * 2**20))
    calls = []
    monkeypatch.setattr(data, "bench_data", lambda *given, **options: calls.append((given, options)) or figures)
    assert main(["bench", "data", str(tmp_path), "--size", "64x48", "--images", "30"]) == 0

    assert calls[0][0] == (tmp_path, (64, 48))
    assert calls[0][1]["images"] == 30
    text = capsys.readouterr().out
    assert says(text, "30 images of 64x48")
    assert says(text, "prepare 15.0 2,000 2,000 to 2,000 50 %")
    assert says(text, "prepare with 2 60.0 500 500 to 500 200 %")
    assert "order of 1,000 images: 2.00 us per image" in text
    assert "opening a data set of 5,000 images: 250 ms, 3 MiB" in text
