"""`hdit flops`: output, refusals, and imports that stay light."""

import json
import subprocess
import sys

import pytest

from hdit_cli.main import main

HEAVY = {"torch", "numpy", "scipy", "matplotlib", "PIL", "rich"}


def result(capsys, *args):
    """Run `hdit flops ... --json` and return its document."""
    assert main(["flops", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_without_a_recipe_hdit_b4_is_compared_with_dit_b4_at_five_sizes(capsys):
    document = result(capsys)

    (network,), (dit,) = document["networks"], document["baselines"]

    assert (network["name"], dit["name"]) == ("HDiT-B/4", "DiT-B/4")
    assert [size["image_size"] for size in network["sizes"]] == [[n, n] for n in (128, 256, 512, 1024, 2048)]
    assert [round(size["macs"] / 1e9) for size in network["sizes"][:4]] == [31, 65, 198, 732]
    assert [round(size["macs"] / 1e9) for size in dit["sizes"][:3]] == [106, 657, 6341]
    assert document["exponents"]["HDiT-B/4"]["between_largest_two"] == pytest.approx(1, abs=0.02)
    assert document["exponents"]["DiT-B/4"]["between_largest_two"] == pytest.approx(2, abs=0.04)


def test_a_recipe_is_broken_down_at_its_own_size(capsys):
    (size,) = result(capsys, "imagenet256")["networks"][0]["sizes"]

    assert (size["image_size"], size["parameters"], size["macs"]) == ([256, 256], 557_416_522, 197_586_845_696)
    assert [level["attention"] for level in size["levels"]] == ["neighborhood", "neighborhood", "global"]
    assert size["levels"][1]["grid"] == [32, 32]


@pytest.mark.parametrize(
    ("recipe", "gmac"), [("ablations/a", "32.169"), ("ablations/b1", "29.149"), ("ablations/r4", "106.395")]
)
def test_an_ablation_is_counted_by_its_name(capsys, recipe, gmac):
    assert main(["flops", recipe, "--against", "none"]) == 0
    assert f"{recipe}  128x128" in (text := capsys.readouterr().out) and gmac in text


def test_one_size_prints_levels_operations_and_both_macs_and_flops(capsys):
    assert main(["flops", "ffhq1024"]) == 0
    text = capsys.readouterr().out

    assert "1 MAC = 1 multiply-add = 2 FLOPs" in text
    for words in ("level 4", "neighborhood 7x7", "feed-forward", "merges and splits", "mapping", "DiT-B/4"):
        assert words in text
    assert "ffhq1024          1024x1024   85,079,300     206.076      412.152" in text
    assert "grow" not in text


def test_several_sizes_print_totals_and_exponents_and_two_of_them_only_one_exponent(capsys):
    assert main(["flops", "--sizes", "128,256x512,1024"]) == 0
    three = capsys.readouterr().out
    assert main(["flops", "--sizes", "128,256x512"]) == 0
    two = capsys.readouterr().out

    assert "256x512" in three
    assert "MACs of HDiT-B/4 scale as pixels^" in three
    assert "between the two largest" in three
    assert "MACs of DiT-B/4 scale as pixels^" in two
    assert "between the two largest" not in two


def test_a_size_is_one_number_or_height_x_width(capsys):
    sizes = result(capsys, "--sizes", "256, 256x512")["networks"][0]["sizes"]

    assert [size["image_size"] for size in sizes] == [[256, 256], [256, 512]]


def test_overrides_reach_the_network_that_is_counted(capsys):
    (deeper,) = result(capsys, "imagenet256", "--set", "model.levels.2.depth=17")["networks"][0]["sizes"]

    assert deeper["levels"][2]["depth"] == 17
    assert deeper["macs"] > 197_586_845_696


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_plot_is_written_and_the_numbers_are_still_printed(capsys, tmp_path, ending):
    path = tmp_path / f"scaling.{ending}"
    document = result(capsys, "--sizes", "128,256", "--plot", str(path))

    assert len(document["networks"][0]["sizes"]) == 2
    assert path.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[ending])


def test_baselines_are_chosen_by_name_and_none_omits_them(capsys):
    names = [series["name"] for series in result(capsys, "--sizes", "256", "--against", "adm, U-ViT-L/2")["baselines"]]

    assert names == ["ADM", "U-ViT-L/2"]
    assert result(capsys, "--sizes", "256", "--against", "none")["baselines"] == []


def test_each_size_names_the_published_network_and_whether_it_is_scaled(capsys):
    args = ["--sizes", "64,128,256,512,1024", "--against", "adm,dit-b/4"]
    adm, dit = result(capsys, *args)["baselines"]

    assert [size["network"] for size in adm["sizes"]] == ["ADM-64", "ADM-128", "ADM-256", "ADM-512", "ADM-512 (scaled)"]
    assert [size["network"] for size in dit["sizes"][:3]] == ["DiT-B/4 (scaled)", "DiT-B/4", "DiT-B/4 (scaled)"]
    assert main(["flops", *args]) == 0
    text = capsys.readouterr().out
    assert "ADM-512 (scaled)  1024x1024" in text
    assert "ADM: the published network of each size, so its growth is not that of one network." in text
    assert "(scaled): published for another input size (DiT and U-ViT: also latents), and counted at this one." in text


def test_the_csv_has_a_head_and_a_line_for_each_part(capsys):
    assert main(["flops", "ffhq1024", "--csv", "--against", "none"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()

    assert head == "network,height,width,level,operation,parameters,macs,flops,activation_bytes"
    assert sum(int(line.split(",")[6]) for line in lines) == sum(
        part["macs"] for part in result(capsys, "ffhq1024")["networks"][0]["sizes"][0]["parts"]
    )


MISTAKES = {
    "a baseline that is none": (
        ["--against", "dit-q/4"],
        "--against dit-q/4: expected dit-{s,b,l,xl}/patch, u-vit-{s,m,l,h}/patch or adm, for example dit-b/4",
    ),
    "a sweep of words": (
        ["--kernel-sizes", "large"],
        "--kernel-sizes large: expected whole numbers separated by",
    ),
    "two formats": (["--csv", "--json"], "--csv and --json: choose one"),
    "a size that is none": (
        ["--sizes", "128,large"],
        "--sizes 128,large: expected N or HEIGHTxWIDTH in pixels, separated by commas, such as 256 or 512x768,1024",
    ),
    "a size between those that fit": (["--sizes", "100"], "HDiT-B/4 does not accept images of 100x100"),
    "a size too small for the recipe": (["imagenet256", "--sizes", "48"], "larger than the level's 6x6 grid"),
    "an override without a recipe": (
        ["--set", "model.patch_size=2"],
        "--set model.patch_size=2: needs a recipe, for example imagenet256",
    ),
    "a plot of another kind": (["--plot", "x.jpg"], "--plot x.jpg: expected a name that ends in .png or .svg"),
    "a plot into no folder": (["--plot", "nowhere/x.png"], "--plot nowhere/x.png: there is no folder nowhere"),
    "no size at all": (["--sizes", ""], "expected N or HEIGHTxWIDTH"),
    "a plot of one point": (
        ["--sizes", "128", "--plot", "x.png"],
        "--plot x.png: a curve needs two sizes or more; add --sizes 128,256,512,1024,2048",
    ),
    "a recipe that is not there": (["imagenet265"], "did you mean 'imagenet256'?"),
}


@pytest.mark.parametrize(("args", "message"), MISTAKES.values(), ids=MISTAKES)
def test_an_error_is_one_line_and_exit_code_2(capsys, args, message):
    assert main(["flops", *args]) == 2
    out, err = capsys.readouterr()

    assert out == ""
    assert err.startswith("hdit: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("args", [["--sizes", "1024"], ["--sizes", "1024", "--json"], ["ffhq1024"]])
def test_counting_imports_neither_torch_nor_numpy(args):
    code = "import sys; from hdit_cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code, "flops", *args], capture_output=True, text=True, check=True)

    assert run.stdout
    assert HEAVY.isdisjoint(run.stderr.split())


def test_activation_bytes_add_up_over_parts_and_levels(capsys):
    (size,) = result(capsys, "ffhq1024", "--sizes", "1024x512")["networks"][0]["sizes"]

    kept = size["activation_bytes"]
    assert size["parameter_bytes"] == 4 * size["parameters"]
    assert kept == sum(part["activation_bytes"] for part in size["parts"])
    assert kept == sum(level["activation_bytes"] for level in size["levels"])
    whole = result(capsys, "ffhq1024")["networks"][0]["sizes"][0]["activation_bytes"]
    assert whole == 2 * kept
