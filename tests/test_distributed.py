"""The rank of a process, from the environment of torchrun and srun."""

import socket
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from hdit_core.distributed import _store, gpu_of, init_ranks
from hdit_core.errors import HditError, UsageError
from hdit_core.launch import LaunchInfo, _is_batch_script, first_host, is_main_process, read_launch_info, step_tasks
from tests.ports import take_port

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"} | {
    "MASTER_ADDR": "gpu01",
    "MASTER_PORT": "29400",
}
BATCH = {"SLURM_JOB_ID": "1234", "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_NNODES": "2"}
SRUN = BATCH | {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[01-02]",
}


def test_torchrun_sets_the_rank_and_the_rendezvous():
    assert read_launch_info(TORCHRUN) == LaunchInfo(5, 8, 1, "gpu01", 29400, one_node=False)
    assert read_launch_info(TORCHRUN | {"LOCAL_WORLD_SIZE": "8"}).one_node


@pytest.mark.parametrize(("address", "one_node"), [("127.0.0.1", True), ("localhost", True), ("gpu01", False)])
def test_without_the_number_of_ranks_on_a_node_the_address_determines_whether_there_is_one_node(address, one_node):
    environment = {name: text for name, text in TORCHRUN.items() if name != "LOCAL_WORLD_SIZE"}
    assert read_launch_info(environment | {"MASTER_ADDR": address}).one_node is one_node


def test_srun_sets_the_rank_too_and_torchrun_has_precedence():
    place = read_launch_info(SRUN)
    assert (place.rank, place.size, place.local_rank, place.address, place.one_node) == (5, 8, 1, "gpu01", False)
    assert read_launch_info(SRUN | TORCHRUN) == read_launch_info(TORCHRUN)


def test_the_ranks_of_a_step_agree_on_a_port_that_other_steps_and_jobs_do_not_use():
    ports = {read_launch_info(SRUN | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0"}).port for rank in range(8)}
    others = [{"SLURM_STEP_ID": "1"}, {"SLURM_JOB_ID": "1235"}, {"SLURM_JOB_ID": "1235", "SLURM_STEP_ID": "1"}]
    found = [read_launch_info(SRUN | other).port for other in others]
    assert len(ports) == 1 and len({*ports, *found}) == 4
    assert all(15_000 <= port < 31_000 for port in (*ports, *found))
    assert read_launch_info(SRUN | {"MASTER_PORT": "777"}).port == 777


def test_on_one_node_ranks_of_srun_meet_at_the_loopback():
    place = read_launch_info(SRUN | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu01"})
    assert place.address == "127.0.0.1" and place.one_node


@pytest.mark.parametrize("environment", [{}, BATCH, BATCH | {"SLURM_STEP_NUM_TASKS": "1"}, {"WORLD_SIZE": "1"}])
def test_a_batch_script_and_a_single_process_are_a_world_of_one(environment, monkeypatch):
    assert read_launch_info(environment) == LaunchInfo()
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert is_main_process() and init_ranks("cpu").size == 1


def test_only_the_first_rank_of_srun_prints(monkeypatch):
    for name, text in SRUN.items():
        monkeypatch.setenv(name, text)
    assert not is_main_process()
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert is_main_process()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[007-010,12],cpu3", "gpu007"),
        ("gpu[12,3-5]", "gpu12"),
        ("rack[2-3]n[04-05]", "rack2n04"),
        ("a-b.c_d[1-2].example.org,x", "a-b.c_d1.example.org"),
        ("n[1]", "n1"),
    ],
)
def test_the_first_of_a_list_of_nodes_is_found(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize("nodes", ["", "[", "gpu[1-2", "gpu[a]", "gpu 1", "$(reboot)", "gpu[]"])
def test_an_invalid_list_of_nodes_is_refused(nodes):
    with pytest.raises(UsageError, match=r"SLURM_STEP_NODELIST is .* expected a node list such as gpu"):
        first_host(nodes)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_missing_launch_variable_is_refused(name):
    environment = {key: text for key, text in TORCHRUN.items() if key != name}
    with pytest.raises(UsageError, match=f"^{name} is not set, but this is one of several ranks; start them with"):
        read_launch_info(environment)


def test_a_rank_that_is_not_a_number_is_refused():
    with pytest.raises(UsageError, match=r"RANK is 'one', expected a number; torchrun, srun or a Slurm job array"):
        read_launch_info(TORCHRUN | {"RANK": "one"})


def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one_that_slurm_lets_it_see():
    assert [gpu_of(LaunchInfo(rank + 4, 8, rank), 4) for rank in range(4)] == [0, 1, 2, 3]
    alone = read_launch_info(SRUN | {"CUDA_VISIBLE_DEVICES": "3"})
    assert alone.local_rank == 1 and gpu_of(alone, 1) == 0
    assert gpu_of(read_launch_info(SRUN | {"CUDA_VISIBLE_DEVICES": "2,3"}), 2) == 1
    with pytest.raises(UsageError, match="rank 5 has local rank 1, but 1 GPUs are visible on its node; start as many"):
        gpu_of(LaunchInfo(5, 8, 1), 1)


def test_a_port_that_is_in_use_is_reported(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1]), "RANK": "0", "WORLD_SIZE": "2"}
        for name, text in (here | {"LOCAL_RANK": "0"}).items():
            monkeypatch.setenv(name, text)
        with pytest.raises(UsageError, match=r"port \d+ .* is not available .* set MASTER_PORT"):
            init_ranks("cpu")


def test_ranks_that_torchrun_restarts_do_not_read_the_keys_of_the_former_ones(monkeypatch):
    patience = timedelta(seconds=60)
    torchruns = TCPStore("127.0.0.1", 0, is_master=True, timeout=patience, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    stores = []
    for attempt in "011":
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        stores.append(_store(LaunchInfo(0, 2, 0, address="127.0.0.1", port=torchruns.port), patience))
    stores[0].set("hdit/lost", "rank 1")
    assert not stores[1].check(["hdit/lost"])
    stores[1].set("hdit/lost", "rank 0")
    assert stores[2].get("hdit/lost") == b"rank 0" and stores[0].get("hdit/lost") == b"rank 1"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_waiting_for_missing_ranks_times_out(rank, monkeypatch):
    port = str(take_port())
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "RANK": rank}
    for name, text in here.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(HditError, match=rf"rank {rank} on .* did not meet the other 1 at 127.0.0.1:{port} within 1 s"):
        init_ranks("cpu", timeout_s=1)


def slurm_process(proc, title):
    """Lay out a task of Slurm and its daemon under /proc."""
    for pid, stat, cmdline in ((20, "20 (ba) sh) S 10 20 20 0", "bash"), (10, "10 (slurmstepd) S 1 10 10 0", title)):
        (proc / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "stat").write_text(stat)
        (proc / str(pid) / "cmdline").write_text(cmdline + "\0")


def test_variables_of_a_step_are_ignored_in_a_batch_script_submitted_from_it(tmp_path, monkeypatch):
    leaked = SRUN | {"SLURM_TASK_PID": "20", "SLURM_PROCID": "0"}
    slurm_process(tmp_path / "batch", "slurmstepd: [1234.batch]")
    slurm_process(tmp_path / "step", "slurmstepd: [1234.0]")
    assert _is_batch_script(leaked, tmp_path / "batch") and not _is_batch_script(leaked, tmp_path / "step")
    assert not _is_batch_script(leaked, tmp_path / "no such proc") and not _is_batch_script({}, tmp_path / "batch")
    monkeypatch.setattr("hdit_core.launch._is_batch_script", lambda environment: True)
    assert step_tasks(leaked) == 1 and read_launch_info(leaked) == LaunchInfo()
