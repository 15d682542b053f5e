"""--deterministic: bit-identical results, or an error that names the operation that prevents them."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from hdit_cli.main import main
from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders, recipe_file
from hdit_core.checkpoint.load import open_checkpoint
from hdit_core.checkpoint.status import read_status
from hdit_core.errors import StoppedEarly, UsageError
from hdit_core.model.attention import flex, natten, triton
from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.neighborhood_backends import availability, select_backend
from hdit_core.train.deterministic import deterministic
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.run import train
from hdit_core.train.start.run_folder import keep_recipe
from hdit_core.train.step.train_step import Learner
from tests.conftest import collected_messages

SWITCHES = ("CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in SWITCHES:  # set first, so that what the tests leave is taken back
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def gpu(monkeypatch):
    """torch's answers on a machine with CUDA that has not been used yet."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    return monkeypatch


def switches():
    backends = torch.backends
    return (
        torch.are_deterministic_algorithms_enabled(),
        backends.cudnn.deterministic,
        backends.cudnn.benchmark,
        backends.cuda.cudnn_sdp_enabled(),
    )


def prepared(recipe, device="cuda"):
    """Enter and leave the mode; return its note."""
    with collected_messages() as notes, deterministic(recipe.train, device):
        assert switches() == (True, True, False, False)
    assert not torch.are_deterministic_algorithms_enabled()
    (note,) = notes
    return note


# --- a run -----------------------------------------------------------------------------------------------------------


def test_two_deterministic_runs_are_bit_identical_and_torchs_settings_are_restored(tmp_path, trained, notes):
    before = switches()
    for name in ("one", "two"):
        train(trained({"train.num_images": 16}), tmp_path / name, device="cpu", deterministic=True)
    assert switches() == before
    assert [note.startswith("deterministic: bit-identical on this machine with 1 rank of ") for note in notes].count(
        True
    ) == 2
    folders = [checkpoint_folder(tmp_path / name, 2) for name in ("one", "two")]
    assert open_checkpoint(folders[0]).state.deterministic
    for part in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        assert (folders[0] / part).read_bytes() == (folders[1] / part).read_bytes()


def test_a_run_resumed_with_or_without_determinism_logs_the_change(tmp_path, trained, notes):
    def go_on(images, wanted):
        notes.clear()
        recipe = trained({"train.num_images": images, "train.checkpoint_every_images": 8})
        train(recipe, tmp_path, device="cpu", deterministic=wanted)
        return notes, open_checkpoint(checkpoint_folders(tmp_path)[0]).state.deterministic

    assert go_on(8, True)[1]
    notes, kept = go_on(16, False)
    assert "steps 0 to 0 were deterministic, those from now on are not" in notes and not kept
    notes, kept = go_on(24, True)
    late = "deterministic from step 2 on; not all earlier steps were"
    assert late in notes and not kept


def test_an_operation_without_a_deterministic_form_ends_the_run_and_is_named(tmp_path, trained, monkeypatch):
    losses = Learner.losses

    def scattering(learner, *args):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
        return losses(learner, *args)

    monkeypatch.setattr(Learner, "losses", scattering)
    message = r"^--deterministic: put_ has no deterministic implementation in torch .*; train without"
    with pytest.raises(UsageError, match=message):
        train(trained({}), tmp_path / "run", device="cpu", deterministic=True)
    status = read_status(tmp_path / "run")
    assert status["state"] == "failed" and status["reason"].startswith("--deterministic: put_ has no")
    assert train(trained({"train.num_images": 8}), tmp_path / "other", device="cpu").step == 1  # it is the mode's rule


def test_other_errors_and_requests_to_stop_pass_through(tmp_path, trained):
    with pytest.raises(RuntimeError, match=r"^a shape"), deterministic(trained({}).train, "cpu"):
        raise RuntimeError("a shape does not fit")
    (tmp_path / "run").mkdir()

    def stop(progress):
        (tmp_path / "run" / "STOP").touch()

    with pytest.raises(StoppedEarly):
        train(trained({}), tmp_path / "run", device="cpu", callbacks=Callbacks(stop), deterministic=True)


@pytest.mark.parametrize(("way", "more"), [("run", []), ("dry_run", ["--dry-run"]), ("replay", ["--repro", "1"])])
def test_the_option_reaches_training_dry_runs_and_replays(tmp_path, trained, monkeypatch, capsys, way, more):
    def refuse(recipe, folder, device, callbacks, wants_deterministic=False):
        raise UsageError(f"deterministic: {wants_deterministic}")

    monkeypatch.setattr(f"hdit_core.train.{way}.run_context", refuse)
    keep_recipe(tmp_path, trained({}))
    command = ["train", str(recipe_file(tmp_path)), "--out", str(tmp_path), *more]
    assert main(command) == 2 and "deterministic: False" in capsys.readouterr().err
    assert main([*command, "--deterministic"]) == 2 and "deterministic: True" in capsys.readouterr().err


def test_the_option_reaches_slurm_jobs(capsys):
    assert main(["slurm", "train", "mnist32", "--deterministic", "--time", "1:00:00"]) == 0
    assert "-m hdit_cli train mnist32 --deterministic &" in capsys.readouterr().out


# --- what CUDA needs -------------------------------------------------------------------------------------------------


def test_cuda_settings_are_made_before_anything_is_computed(gpu, trained):
    note = prepared(trained({}))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and "NCCL_ALGO" not in os.environ
    assert "CUBLAS_WORKSPACE_CONFIG=:4096:8, cuDNN without benchmarking" in note
    assert note.endswith("float32 matmuls in full float32, not TF32")


def test_products_in_tf32_are_reported(gpu, trained):
    torch.backends.cuda.matmul.allow_tf32 = True  # torch takes it on machines without CUDA too
    try:
        assert prepared(trained({})).endswith("float32 matmuls in TF32")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_settings_of_the_user_are_kept_if_they_are_deterministic(gpu, trained):
    gpu.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert "CUBLAS_WORKSPACE_CONFIG=:16:8" in prepared(trained({}))


def test_a_nondeterministic_workspace_and_a_late_one_are_refused(gpu, trained):
    gpu.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UsageError, match=r"CUBLAS_WORKSPACE_CONFIG is ':0:0', expected :4096:8 or :16:8; unset it"):
        prepared(trained({}))
    gpu.delenv("CUBLAS_WORKSPACE_CONFIG")
    gpu.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UsageError, match=r"CUDA is in use already; set CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python"):
        prepared(trained({}))


@pytest.mark.parametrize("chosen", [None, "Ring", "ring,Tree", "^NVLSTree,nvls,Tree"])
def test_ranks_on_gpus_reduce_without_network_switches(gpu, trained, chosen):
    ranks(gpu)
    if chosen:
        gpu.setenv("NCCL_ALGO", chosen)
    assert f"NCCL_ALGO={chosen or '^NVLS,NVLSTREE'}, " in prepared(trained({}))


@pytest.mark.parametrize("chosen", ["NVLS", "Ring,NVLSTree", "^NVLS", "allreduce:nvls"])
def test_reductions_in_network_switches_are_refused(gpu, trained, chosen):
    ranks(gpu)
    gpu.setenv("NCCL_ALGO", chosen)
    with pytest.raises(UsageError, match=r"NCCL_ALGO is .*switches add up in any order; unset it, or set NCCL_ALGO=\^"):
        prepared(trained({}))


def ranks(monkeypatch):
    place = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)


def test_a_compiler_that_picks_by_speed_is_refused(gpu, trained):
    recipe = trained({"train.compile": True})
    prepared(recipe)
    gpu.setitem(sys.modules, "torch._inductor.config", SimpleNamespace())
    with pytest.raises(
        UsageError, match=r"torch.compile of torch .* picks kernels by their speed.*train.compile=false"
    ):
        prepared(recipe)


def test_a_device_without_such_a_mode_is_refused(monkeypatch, trained):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UsageError, match=r"^--deterministic: torch has no deterministic mode on MPS; use --device cpu"):
        prepared(trained({}), "mps")


# --- attention -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_backends(gpu):
    """A GPU without Triton, on which NATTEN and FlexAttention both run."""
    module = ModuleType("natten")
    module.__version__ = "0.21.7"
    gpu.setitem(sys.modules, "natten", module)
    gpu.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu.setattr(natten, "unavailable", lambda place: None)
    gpu.setattr(natten, "kernel", lambda module, place: "hopper-fna")
    gpu.setattr(flex, "self_test", lambda attend, place: None)
    gpu.setattr(triton, "unavailable", lambda place: "Triton is not installed")
    select_backend.cache_clear()
    yield
    select_backend.cache_clear()


def test_a_backend_without_guaranteed_determinism_is_skipped_with_the_reason(two_backends, trained):
    cuda = (torch.device("cuda", 0), torch.bfloat16, 64)
    assert select_backend(KernelTarget(*cuda)).name == "natten"
    with deterministic(trained({}).train, "cuda"):
        chosen = select_backend(KernelTarget(*cuda))
    assert chosen.name == "flex"
    missing = "--deterministic is set, and natten does not guarantee determinism for all of its kernels"
    assert chosen.note.endswith(f"{missing}; Triton is not installed")


def test_a_requested_backend_without_guaranteed_determinism_is_refused(two_backends):
    place = KernelTarget(torch.device("cuda", 0), torch.bfloat16, 64, deterministic=True)
    with pytest.raises(UsageError, match=r"'natten' cannot run here: --deterministic is set, .*auto, flex, tiled$"):
        select_backend(place, "natten")
    assert availability(place)["flex"] is None


def test_attention_on_a_cpu_is_deterministic_with_every_backend(trained):
    place = KernelTarget(torch.device("cpu"), torch.float32, 8, deterministic=True)
    assert select_backend(place).name == select_backend(KernelTarget(torch.device("cpu"), torch.float32, 8)).name
