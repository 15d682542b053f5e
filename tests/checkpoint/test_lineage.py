"""RUN/lineage.json: the forks that led to a run."""

from hdit_core.checkpoint.lineage import Fork


def test_a_key_that_one_side_does_not_set_is_said_to_be_not_set():
    changes = {"evaluate.reference": (None, "data/pics"), "train.lr": (1e-3, 5e-4)}
    fork = Fork(run="runs/a", step=10, num_images=320, reset=("ema",), changes=changes)
    assert str(fork) == (
        "runs/a at step 10 (320 images); reset ema; evaluate.reference not set -> 'data/pics'; train.lr 0.001 -> 0.0005"
    )
