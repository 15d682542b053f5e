"""`hdit restore` and conditional `hdit sample` from the shell: names, results, one line for each error."""

import io
import json
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdit_cli.commands.restore import check_ranks
from hdit_cli.main import main
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.errors import UsageError
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.read import check_recipe
from tests.generate.conditional import tables, write_network, write_pictures

DOWNSCALE = {"kind": "downscale", "factor": 2}
MASK = {"kind": "mask"}
CPU = ["--device", "cpu"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working folder, with a network for super-resolution and small pictures."""
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path / "sr", [DOWNSCALE])
    write_pictures(tmp_path / "in", ["a.png", "deep/b.jpg"], size=(8, 12))
    return tmp_path


def test_a_folder_is_restored_under_the_same_names(place, capsys):
    assert main(["restore", "in", "--ckpt", "sr", "--out", "out", "--json", *CPU]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["num_images"] == 2 and record["unusable"] == {} and record["origin"]["restore"]["degrade"] is False
    assert Image.open("out/a.png").size == (24, 16) and Image.open("out/deep/b.png").size == (24, 16)
    assert Image.open("out-grid.png").size[0] > 2 * 24
    assert main(["restore", "in", "--ckpt", "sr", "--out", "out", *CPU]) == 0
    assert "num_images  2" in capsys.readouterr().out


def test_a_single_file_and_a_tar_on_stdin_are_restored(place, capsys, monkeypatch):
    assert main(["restore", "in/a.png", "--ckpt", "sr", "--out", "one", *CPU]) == 0
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add("in", arcname=".")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    code = main(["restore", "-", "--ckpt", "sr", "--out", "stream", *CPU])
    assert code == 0, capsys.readouterr().err
    assert np.array_equal(np.asarray(Image.open("one/a.png")), np.asarray(Image.open("stream/a.png")))


def as_stdin(monkeypatch, folder):
    """Put a tar of a folder on stdin."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(folder, arcname=".")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))


def test_a_tar_contains_the_same_files_as_a_folder(place, capsysbinary, monkeypatch):
    assert main(["restore", "in", "--ckpt", "sr", "--out", "out", *CPU]) == 0
    assert main(["restore", "in", "--ckpt", "sr", "--out", "x.tar", *CPU]) == 0
    as_stdin(monkeypatch, "in")
    capsysbinary.readouterr()
    assert main(["restore", "-", "--ckpt", "sr", "--out", "-", "--json", *CPU]) == 0
    stdout, stderr = capsysbinary.readouterr()
    assert stdout == (place / "x.tar").read_bytes()
    record = json.loads(stderr[stderr.index(b"{") :])
    folder = json.loads((place / "out" / "samples.json").read_text())
    assert record["num_images"] == 2 and record["origin"] == folder["origin"]
    with tarfile.open("x.tar") as archive:
        found = {one.name: archive.extractfile(one).read() for one in archive}
    assert found == {name: (place / "out" / name).read_bytes() for name in ("a.png", "deep/b.png")}
    assert [path.name for path in place.glob("*-grid.png")] == ["out-grid.png"]


def test_a_tar_lacks_inputs_that_cannot_be_restored_and_they_are_reported(place, capsys):
    (place / "in" / "empty.png").write_bytes(b"")
    assert main(["restore", "in", "--ckpt", "sr", "--out", "x.tar", *CPU]) == 3
    assert "in: could not restore 1 input; the first: empty.png" in capsys.readouterr().err
    with tarfile.open("x.tar") as archive:
        assert archive.getnames() == ["a.png", "deep/b.png"]


def test_vectors_are_read_as_hdit_sample_reads_them(place, capsys):
    write_network(place / "both", [DOWNSCALE], mapping_cond_dim=4, num_classes=2)
    np.save("v.npy", np.eye(4)[:2])
    arguments = ["restore", "in", "--ckpt", "both", "--class", "1", *CPU]
    assert main([*arguments, "--vectors", "v.npy", "--out", "out", "--json"]) == 0
    origin = json.loads(capsys.readouterr().out)["origin"]
    assert origin["conditions"]["vectors"]["path"] == "v.npy" and origin["class"] == 1
    assert main([*arguments, "--out", "none"]) == 2
    assert "the network takes vectors of 4 numbers, and none are given; see --vector" in capsys.readouterr().err
    np.save("w.npy", np.eye(3))
    assert main([*arguments, "--vectors", "w.npy", "--out", "none"]) == 3
    assert "w.npy: has 3x3 numbers; expected N x 4, or 4 for all images" in capsys.readouterr().err


def test_restored_and_degraded_images_are_scored_against_the_originals(place, capsys):
    write_pictures(place / "clean", ["a.png", "b.png"])
    assert main(["restore", "clean", "--ckpt", "sr", "--degrade", "--out", "out", *CPU]) == 0
    capsys.readouterr()
    assert main(["eval-fid", "out", "--ref", "clean", "--paired", "--json", *CPU]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 2 and found["passport"]["images"]["samples"]["restore"]["degrade"] is True


def test_tile_and_sampling_options_take_effect(place, capsys):
    write_pictures(place / "large", ["a.png"], size=(20, 30))
    options = ["--tile", "16x24", "--overlap", "3", "--steps", "2", "--sampler", "heun", "--seed", "3"]
    assert main(["restore", "large", "--ckpt", "sr", "--out", "out", "--json", *options, *CPU]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["origin"]["restore"]["tile"] == [16, 24] and record["origin"]["restore"]["overlap"] == 3
    assert record["origin"]["settings"]["steps"] == 2 and record["origin"]["seed"] == 3


def test_inputs_that_cannot_be_restored_are_named_and_the_others_are_restored(place, capsys):
    (place / "in" / "empty.png").write_bytes(b"")
    (place / "in" / "line\nbreak.png").write_bytes((place / "in" / "a.png").read_bytes())
    (place / "in" / "a.bmp").write_bytes((place / "in" / "a.png").read_bytes())
    (place / "in" / "grid.png").write_bytes((place / "in" / "a.png").read_bytes())
    assert main(["restore", "in", "--ckpt", "sr", "--out", "out", "--json", *CPU]) == 3
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["num_images"] == 2 and set(record["unusable"]) == {
        "a.png",
        "empty.png",
        "grid.png",
        "line\nbreak.png",
    }
    assert "would have the same name as that of a.bmp" in record["unusable"]["a.png"]
    assert "which hdit reads as an image grid" in record["unusable"]["grid.png"]
    assert "could not restore 4 inputs" in err and "line\\nbreak.png" in err
    assert all(line.startswith("hdit: ") or "restore" in line for line in err.splitlines())


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "x/../../a.png"])
def test_a_tar_cannot_write_outside_the_output_folder(place, capsys, monkeypatch, name):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add("in/a.png", arcname="fine.png")
        member = archive.gettarinfo("in/a.png", arcname="x")
        member.name = name
        with (place / "in" / "a.png").open("rb") as file:
            archive.addfile(member, file)
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    code = main(["restore", "-", "--ckpt", "sr", "--out", "deep/out", *CPU])
    out, err = capsys.readouterr()
    assert code == 3 and "stdin: could not restore 1 input; the first: " in err, (out, err)
    assert sorted(path.name for path in (place / "deep").rglob("*.png")) == ["fine.png", "out-grid.png"]
    assert not (place / "a.png").exists() and not (place / "deep" / "a.png").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["in", "--mask", "in"], "--mask in: the network takes no mask, or --degrade makes it; leave it out"),
        (["in", "--mask", "-"], "--mask -: masks are read from a file or a folder"),
        (["in", "--tile", "30"], "--tile 30x30: height 30 is not a multiple of 4"),
        (["in", "--tile", "x"], "--tile x: expected pixels as N or HEIGHTxWIDTH"),
        (["in", "--overlap", "16"], "--overlap 16: expected 0 to 15 pixels with tiles of 16x24"),
        (["nowhere"], "nowhere: no such folder, archive or built-in data set"),
        (["in", "--out", "in"], "in: exists and is not a folder of restored images; choose another with --out"),
        (["in", "--out", "x.npz"], "--out x.npz: an npz has images of one size and no names; use a folder, a .tar or"),
        (["in", "--out", "in/a.tar.gz"], "expected a folder, a name that ends in .tar or .npz, or - for a tar"),
        (["in", "--out", "old.tar"], "old.tar: already exists and is never replaced; choose another name"),
        (["in", "--vectors", "v.npy"], "--vectors v.npy: the network was trained without vectors; leave it out"),
    ],
)
def test_errors_are_one_line(place, capsys, arguments, message):
    (place / "old.tar").write_bytes(b"")
    assert main(["restore", "--ckpt", "sr", *arguments, *CPU]) in (2, 3)
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize(
    "inputs, out, message",
    [
        ("-", "out", "-: a stream can be read by one process only, got 2 ranks; start one"),
        ("in", "x.tar", "--out x.tar: a tar is written by one process, got 2 ranks; start one, or use a folder"),
        ("in", "-", "--out -: a tar is written by one process, got 2 ranks; start one, or use a folder"),
    ],
)
def test_streams_are_refused_on_several_processes(inputs, out, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        check_ranks(2, inputs, Path(out))
    check_ranks(1, inputs, Path(out))
    check_ranks(2, "in", Path("out"))


def test_a_network_without_condition_images_restores_nothing(place, capsys):
    write_network(place / "plain", condition_channels=0)
    assert main(["restore", "in", "--ckpt", "plain", *CPU]) == 2
    assert "the network was trained without condition images; generate with hdit sample" in capsys.readouterr().err


def test_inpainting_fills_in_the_masked_region(place):
    write_network(place / "fill", [MASK], condition_channels=4)
    write_pictures(place / "photos", ["a.png"])
    Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((2, 10), (3, 17)))).save("mask.png")
    assert main(["restore", "photos", "--ckpt", "fill", "--mask", "mask.png", "--out", "out", *CPU]) == 0
    before, after = (np.asarray(Image.open(path)) for path in ("photos/a.png", "out/a.png"))
    changed = (before != after).any(-1)
    assert changed[2:6, 3:7].any() and not np.delete(changed, np.s_[2:6], 0).any()


def test_samples_take_condition_images_and_record_their_origin(place, capsys):
    arguments = ["sample", "--ckpt", "sr", "--condition", "in", "--n", "3", "--out", "s", "--json", *CPU]
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["origin"]["conditions"]["images"]["path"] == "in"
    assert Image.open("s-grid.png").size == (2 * 26 + 2, 3 * 18 + 2)
    write_pictures(place / "in", ["a.png"], size=(8, 12), seed=4)
    assert main(arguments) == 2
    assert "images with other settings (old -> new): conditions.images.sha256" in capsys.readouterr().err


def test_samples_of_a_conditional_network_need_its_conditions(place, capsys):
    assert main(["sample", "--ckpt", "sr", "--n", "1", "--out", "s", *CPU]) == 2
    assert "the network takes condition images of 3 channels, and none are given; see --condition" in (
        capsys.readouterr().err
    )


def test_samples_take_vectors(place, capsys):
    write_network(place / "vector", condition_channels=0, mapping_cond_dim=4)
    np.save("v.npy", np.eye(4))
    assert main(["sample", "--ckpt", "vector", "--vectors", "v.npy", "--n", "2", "--out", "s", *CPU]) == 0
    assert not np.array_equal(*(np.asarray(Image.open(f"s/0000000{index}.png")) for index in (0, 1)))
    capsys.readouterr()
    assert main(["sample", "--ckpt", "vector", "--vectors", "v.npy", "--condition", "in", "--out", "t", *CPU]) == 2
    assert "--condition in: the network was trained without condition images" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["edit", "vary", "--init", "in/a.png"],
        ["edit", "inpaint", "in/a.png", "in/a.png"],
        ["edit", "interpolate", "0", "1"],
        ["edit", "invert", "in/a.png"],
        ["edit", "likelihood", "in"],
    ],
)
def test_edits_refuse_networks_that_take_condition_images(place, capsys, command):
    assert main([*command, "--ckpt", "sr", *CPU]) == 2
    err = capsys.readouterr().err
    assert "sr: the network takes condition images, which this command cannot give; use hdit restore" in err


def test_guidance_of_the_condition_image_has_an_interval(place, capsys):
    recipe = check_recipe(tables(train={"condition_dropout": 0.1}), "guided")
    network = HourglassTransformer(recipe.model)
    initialize(network, 3)
    write_tensors(place / "guided", network.state_dict(), recipe.model_dump_json())
    write_pictures(place / "same", ["a.png"])
    guided = ["--set", "sample.condition_guidance=2", "--guidance-interval", "0.1,8"]
    assert main(["restore", "same", "--ckpt", "guided", "--out", "out", *guided, *CPU]) == 0
    assert "no effect" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [["restore"], ["edit", "likelihood"]])
def test_a_closed_stdin_is_one_line(place, capsys, monkeypatch, command):
    write_network(place / "plain", condition_channels=0)
    monkeypatch.setattr("sys.stdin", None)
    ckpt = "sr" if command == ["restore"] else "plain"
    assert main([*command, "-", "--ckpt", ckpt, *CPU]) == 2
    assert "error: -: stdin is closed; pipe a tar into this command" in capsys.readouterr().err


def test_rerunning_a_job_inside_the_folder_of_its_inputs_restores_no_output_again(place, capsys):
    write_network(place / "same")
    write_pictures(place / "photos", ["a.png", "deep/b.png"])
    command = ["restore", "photos", "--ckpt", "same", "--out", "photos/restored", "--json", *CPU]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first and first["num_images"] == 2


def test_only_the_first_frame_of_an_animation_is_restored_with_a_warning(place, capsys):
    write_network(place / "same")
    frames = [Image.new("RGB", (24, 16), color) for color in ("red", "green")]
    frames[0].save("film.gif", save_all=True, append_images=frames[1:])
    assert main(["restore", "film.gif", "--ckpt", "same", "--out", "out", *CPU]) == 0
    assert "film.gif: first frame of an animation" in capsys.readouterr().err


def test_conditions_may_be_given_by_another_path_when_a_job_is_resumed(place, capsys):
    command = ["sample", "--ckpt", "sr", "--n", "1", "--out", "s", *CPU, "--condition"]
    assert main([*command, "in"]) == 0
    assert main([*command, str(place / "in") + "/"]) == 0, capsys.readouterr().err
