"""`hdit sample` uses the defaults in RUN/sample.toml, reports them, and lets the command line override them."""

import json

from hdit_cli.main import main
from hdit_core.generate.settings import write_defaults
from hdit_core.train.run import train


def drawn(run, out, *options):
    command = ["sample", "--ckpt", str(run), "--n", "2", "--out", str(out), "--device", "cpu", "--json", *options]
    assert main(command) == 0


def test_the_winner_of_a_sweep_is_a_default_that_options_override(trained, tmp_path, capsys):
    run = tmp_path / "run"
    train(trained({"train.num_images": 8, "sample.steps": 2}), run)
    drawn(run, tmp_path / "plain", "--weights", "model", "--guidance", "2")
    expected = json.loads(capsys.readouterr().out)["origin"]

    write_defaults(run, "model", {"guidance": 2.0}, "found")
    drawn(run, tmp_path / "default")
    out, err = capsys.readouterr()
    assert json.loads(out)["origin"] == expected and json.loads(out)["weights"] == "model"
    assert "sample.toml: weights=model, guidance=2.0" in err
    for name in ("00000000.png", "00000001.png"):
        assert (tmp_path / "default" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()

    drawn(run, tmp_path / "asked", "--weights", "ema", "--guidance", "3")
    found = json.loads(capsys.readouterr().out)
    assert found["weights"] == "ema" and found["origin"]["settings"]["guidance"] == 3.0
