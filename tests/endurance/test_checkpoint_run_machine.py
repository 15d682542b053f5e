"""Ten thousand operations on runs, ten tests of a thousand: two intact checkpoints, always, after the second save."""

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.checkpoint.run_machine import RunMachine

STEPS = 50


@pytest.mark.parametrize("part", range(10))
def test_checkpoints_stay_valid_over_a_thousand_random_operations(changed, part):
    taken = 0

    class Counted(RunMachine):
        def __init__(self):
            super().__init__(changed)

        def check_invariants(self, *args, **options):  # hypothesis calls it after every operation
            nonlocal taken
            taken += 1
            return super().check_invariants(*args, **options)

    many = settings(
        max_examples=20,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(part)(Counted), settings=many)
    print(f"{taken} operations: never fewer than two intact checkpoints after the second save")
