"""Each line of `hdit doctor` on machines that lack something, or that have what runs need."""

import os
from types import SimpleNamespace

import pytest
import torch

from hdit_core import system_memory
from hdit_core.bench import doctor
from hdit_core.bench.doctor import examine
from hdit_core.model.native.compiler import CompileError

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


def test_every_check_runs_once_on_a_cpu(tmp_path):
    findings = list(examine(CPU, tmp_path, {}))

    subjects = [finding.subject for finding in findings]
    assert subjects == [
        "device", "torch", "CUDA", "Triton", "natten", "C++ compiler", "attention", "cores", "memory",
        "free disk here", "free disk, cache", "/dev/shm", "Slurm", "ranks",
    ]  # fmt: skip
    assert all(finding.verdict == "ok" or finding.advice for finding in findings)


def test_an_old_torch_is_a_problem(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu124")
    finding = doctor.examine_torch()

    assert (finding.verdict, finding.advice) == ("problem", "torch 2.6 or later is needed")


def test_a_gpu_that_torch_cannot_use_is_a_problem_with_its_cause(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    cpu_build = doctor.examine_cuda(CPU)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    cuda_build = doctor.examine_cuda(CPU)

    assert cpu_build.verdict == cuda_build.verdict == "problem"
    assert cpu_build.advice.startswith("torch is a CPU build; see docs/gpu.md")
    assert cuda_build.advice.startswith("torch for CUDA 13.0 cannot use it")


def test_natten_is_optional_and_an_unusable_one_is_a_note_with_the_reason(monkeypatch):
    monkeypatch.setattr(doctor, "_target", lambda device: None)
    answers = iter(["natten is not installed (https://natten.org/install)", "natten 0.19 is too old", None])
    monkeypatch.setattr(doctor.natten, "unavailable", lambda target: next(answers))
    monkeypatch.setattr(doctor.natten, "describe", lambda target: "natten 0.21.7 hopper-fna")

    absent, old, usable = (doctor.examine_natten(CUDA) for _ in range(3))
    assert (absent.verdict, absent.found) == ("ok", "not installed; optional")
    assert (old.verdict, old.advice) == ("note", "natten 0.19 is too old")
    assert (usable.verdict, usable.found) == ("ok", "natten 0.21.7 hopper-fna")


def test_tiled_attention_is_a_problem_on_cuda_and_a_note_on_a_cpu(monkeypatch):
    monkeypatch.setattr(doctor, "_target", lambda device: None)
    monkeypatch.setattr(doctor, "select_backend", lambda target: SimpleNamespace(name="tiled", reason="x fails"))

    assert [doctor.examine_attention(device).verdict for device in (CUDA, CPU)] == ["problem", "note"]
    assert "x fails" in doctor.examine_attention(CUDA).found


def test_a_missing_compiler_is_a_note_on_a_cpu_only(monkeypatch):
    def missing():
        raise CompileError("no C++ compiler is on the PATH")

    monkeypatch.setattr(doctor, "find_compiler", missing)

    assert [doctor.examine_compiler(device).verdict for device in (CPU, CUDA)] == ["note", "ok"]


@pytest.mark.parametrize(("free_bytes", "verdict"), [(64 * 10**6, "problem"), (512 * 10**6, "note"), (8 * 10**9, "ok")])
def test_little_shared_memory_is_a_note_and_dockers_default_a_problem(monkeypatch, free_bytes, verdict):
    monkeypatch.setattr(doctor, "free_shared_memory", lambda: free_bytes)
    finding = doctor.examine_shared_memory()

    assert finding.verdict == verdict
    assert verdict == "ok" or "--shm-size" in finding.advice


@pytest.mark.parametrize(("free_bytes", "verdict"), [(10**8, "problem"), (5 * 10**9, "note"), (10**12, "ok")])
def test_free_disk_space_of_a_missing_folder_is_that_of_its_parent(monkeypatch, tmp_path, free_bytes, verdict):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=free_bytes))

    assert doctor.examine_disk("free disk here", tmp_path / "runs" / "a").verdict == verdict


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    assert doctor.examine_disk("free disk here", tmp_path).advice == f"{tmp_path} is not writable"


def test_a_memory_limit_of_the_container_counts(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text(f"{2 * 2**30}\n")
    monkeypatch.setattr(system_memory, "GROUP_LIMITS", (str(limit),))
    monkeypatch.setattr(doctor, "memory_bytes", {"MemTotal": 64 * 2**30, "MemAvailable": 60 * 2**30}.get)
    limited = doctor.examine_memory()
    limit.write_text("max\n")

    assert (limited.verdict, limited.found) == ("note", "64.0 GiB, 60.0 GiB available, limit 2.0 GiB")
    assert (doctor.examine_memory().verdict, doctor.examine_memory().found) == ("ok", "64.0 GiB, 60.0 GiB available")


def test_a_slurm_job_shows_its_time_and_one_that_has_ended_is_a_note():
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "10000"}
    running, over = doctor.examine_slurm(job, lambda: 2800.0), doctor.examine_slurm(job, lambda: 10001.0)

    assert (running.found, running.verdict) == ("job 7, 2.0 hours left", "ok")
    assert (over.found, over.verdict) == ("job 7", "note")


def test_ranks_are_those_of_the_launcher_and_a_broken_environment_is_a_problem():
    torchrun = {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    broken = doctor.examine_ranks({"WORLD_SIZE": "8"}, CPU)

    assert doctor.examine_ranks(torchrun, CPU).found == "rank 3 of 8, local rank 3"
    assert broken.verdict == "problem" and broken.advice.startswith("RANK is not set")
