import torch

from hdit_core.bench import machine
from hdit_core.bench.machine import product_rate, this_machine
from hdit_core.bench.timing import Rounds

CPU = torch.device("cpu")


def test_the_report_names_the_machine_the_versions_and_the_threads():
    found = this_machine(CPU, threads=3)
    assert (found.device, found.threads, found.torch) == ("cpu", 3, torch.__version__)
    assert found.processor
    assert found.cores >= 1
    assert str(found) == (
        f"{found.processor} (cpu, 3 of {found.cores} cores), torch {found.torch}, Python {found.python}, {found.system}"
    )


def test_the_matmul_rate_is_that_of_the_fastest_product_at_two_flops_per_mac(monkeypatch):
    monkeypatch.setattr(machine, "PRODUCT_SIZES", {"cpu": (10, 20)})
    moments = iter([0.0, 0.0, 1.0, 0.0, 0.0, 0.5])  # for each size: when the rounds begin, then one run
    rate = product_rate(CPU, torch.float32, rounds=Rounds(warm_up=0, least=1, most=1), clock=lambda: next(moments))
    assert rate == 2 * 20**3 / 0.5
