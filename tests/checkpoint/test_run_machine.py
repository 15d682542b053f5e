"""Two intact checkpoints exist at all times after the second save. tests/endurance has the long form."""

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.checkpoint.run_machine import RunMachine


def test_two_valid_checkpoints_always_exist_and_the_newest_is_never_lost(changed):
    few = settings(
        max_examples=6,
        stateful_step_count=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: RunMachine(changed), settings=few)
