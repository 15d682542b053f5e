import errno
import os
import subprocess
import sys

import pytest

from hdit_cli.main import _expand_home, main

RUN = [sys.executable, "-c", "import sys; from hdit_cli.main import main; sys.exit(main())"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("HditError", 1),
        ("UsageError", 2),
        ("RecipeError", 2),
        ("DataError", 3),
        ("CheckpointError", 4),
        ("NumericalError", 5),
    ],
)
def test_an_error_of_a_user_is_one_line_and_the_exit_code_of_its_kind(install_body, capsys, kind, code):
    install_body(f"from hdit_core.errors import {kind}\nraise {kind}('faces/a.tar: cut short')")
    assert main(["act"]) == code
    assert capsys.readouterr() == ("", "hdit: error: faces/a.tar: cut short\n")


@pytest.mark.parametrize("words", [["--out=~/x"], ["--out", "~/x"]])
def test_a_tilde_that_the_shell_did_not_expand_is_the_home_folder(monkeypatch, tmp_path, capsys, words):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").write_text("a file")
    assert main(["sample", "--ckpt=~/nothing", *words]) == 2 or main(["sample", "--ckpt=~/nothing", *words]) == 4
    assert f"{tmp_path}/" in capsys.readouterr().err


def test_a_tilde_inside_a_word_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["a~/b", "~user/x", "--out=b~", "-~/x", "--set", "data.path=~/x", "~", "--out=~"]
    assert _expand_home(words) == [*words[:-2], str(tmp_path), f"--out={tmp_path}"]


def test_stopping_early_exits_with_75(install_body, capsys):
    install_body("from hdit_core.errors import StoppedEarly\nraise StoppedEarly('saved at 640 images')")
    assert main(["act"]) == 75
    assert capsys.readouterr().err == "hdit: stopped early: saved at 640 images\n"


def test_every_error_of_a_recipe_has_its_line(install_body, capsys):
    install_body(r"from hdit_core.errors import RecipeError; raise RecipeError('one\ntwo')")
    assert main(["act"]) == 2
    assert capsys.readouterr().err == "hdit: error: one\nhdit: error: two\n"


def test_a_file_name_cannot_break_out_of_the_line_or_recolor_the_terminal(install_body, capsys):
    install_body(r"from hdit_core.errors import DataError; raise DataError('a\n\x1b[31m\x07b\u202e\udcff.jpg: bad')")
    assert main(["act"]) == 3
    assert capsys.readouterr().err == "hdit: error: a\\n\\x1b[31m\\x07b\\u202e\\udcff.jpg: bad\n"


def test_a_misspelt_option_cannot_recolor_the_terminal(install_body, capsys):
    install_body("pass")
    assert main(["act", "--\x1b[31m"]) == 2
    assert main(["\x1b[31m"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_system_error_is_one_line_that_names_the_file(install_body, capsys):
    install_body("open('no-such-folder/file')")
    assert main(["act"]) == 1
    assert capsys.readouterr().err == "hdit: error: no-such-folder/file: No such file or directory\n"


def test_a_full_disk_is_one_line(install_body, capsys):
    install_body("import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))")
    assert main(["act"]) == 1
    assert capsys.readouterr().err == "hdit: error: No space left on device\n"


@pytest.mark.parametrize("code", sorted(set(errno.errorcode) - {errno.EPIPE, errno.ESHUTDOWN}))
def test_any_error_of_a_system_call_with_a_path_is_one_line_with_that_path(install_body, capsys, code):
    install_body(f"raise OSError({code}, 'reason {code}', '/some/file')")
    assert main(["act"]) == 1
    assert capsys.readouterr().err == f"hdit: error: /some/file: reason {code}\n"


@pytest.mark.parametrize(
    "raised",
    [
        "MemoryError('Unable to allocate 112. GiB')",
        "RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')",
        "RuntimeError('CUDA out of memory.\\nTried to allocate 2 GiB')",
        "MemoryError",
    ],
)
def test_running_out_of_memory_is_one_line_with_advice(install_body, capsys, raised):
    install_body(f"raise {raised}")
    assert main(["act"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("hdit: error: out of memory (") and line.count("\n") == 1
    assert line.endswith("use smaller images or a smaller batch size\n")


@pytest.mark.parametrize(
    "bug",
    ["KeyError('x')", "RuntimeError('of ours')", "OSError(9, 'Bad file descriptor')", "BrokenPipeError(32, 'worker')"],
)
def test_a_bug_keeps_its_traceback(install_body, bug):
    install_body(f"raise {bug}")
    with pytest.raises((KeyError, OSError, RuntimeError)):
        main(["act"])


def test_an_interrupt_ends_quietly_with_130(install_body, capsys):
    install_body("raise KeyboardInterrupt")
    assert main(["act"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_command_may_exit_with_its_own_code(install_body):
    install_body("raise typer.Exit(75)")
    assert main(["act"]) == 75


def test_the_return_value_of_a_command_is_an_exit_code_only_if_it_is_a_number(install_body):
    install_body("return 'done'")
    assert main(["act"]) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["recip"], "no command 'recip'; did you mean 'recipe'? (see 'hdit --help')"),
        (
            ["xyzzy"],
            "no command 'xyzzy'; there are bench, convert, data, doctor, edit,",
        ),
        (["recipe", "lsit"], "no such command 'lsit'. Did you mean 'list'? (see 'hdit recipe --help')"),
        (["recipe", "show", "--jsn"], "no such option: --jsn; did you mean '--json'? (see 'hdit recipe show --help')"),
        (
            ["sample", "--batch_size", "4"],
            "no such option: --batch_size; did you mean '--batch-size'? (see 'hdit sample",
        ),
        (
            ["train", "--num_images=4"],
            "no such option: --num_images; it is a recipe key, which is set with --set train.",
        ),
        (
            ["train", "mnist32", "--lr", "1"],
            "no such option: --lr; it is a recipe key, which is set with --set train.lr=",
        ),
        (
            ["sample", "--sigma-max", "9"],
            "no such option: --sigma-max; it is a recipe key, which is set with --set sample",
        ),
        (["sample", "--num_images", "4"], "no such option: --num_images (see 'hdit sample --help')"),
        (["--vresion"], "no such option: --vresion; did you mean '--version'? (see 'hdit --help')"),
        (["recipe", "show"], "missing argument 'RECIPE' (see 'hdit recipe show --help')"),
        (["recipe"], "missing command (see 'hdit recipe --help')"),
    ],
)
def test_wrong_usage_is_one_line_with_the_nearest_word_and_exit_code_2(capsys, args, message):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"hdit: error: {message}")
    assert err.count("\n") == 1
    assert out == ""


def test_a_value_of_the_wrong_type_is_one_line(install_body, capsys):
    install_body("pass")
    assert main(["act", "--count", "many"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("hdit: error: invalid value for '--count'")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ([], "hdit [OPTIONS] COMMAND"),
        (["sample"], "hdit sample [OPTIONS]"),
        (["eval-fid", "stats"], "hdit eval-fid stats [OPTIONS]"),
    ],
)
def test_help_followed_by_a_command_prints_the_help_of_the_command(capsys, words, usage):
    assert main(["help", *words]) == 0
    out, err = capsys.readouterr()
    assert usage in out and not err


def test_help_on_an_unknown_command_is_an_error(capsys):
    assert main(["help", "smaple"]) == 2
    assert "no command 'smaple'; did you mean 'sample'?" in capsys.readouterr().err


def test_hdit_alone_shows_the_help_on_stderr(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "recipe" in err


def test_the_version_is_the_installed_one(capsys):
    from importlib.metadata import version

    for option in ("--version", "-V"):
        assert main([option]) == 0
        assert capsys.readouterr().out == f"hdit {version('hdit-toolkit')}\n"


@pytest.mark.parametrize("args", [["recipe", "list"], ["act"]])
def test_a_closed_pipe_ends_the_command_silently(install_body, args):
    folder = install_body("print('a result')")
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": ""}
    run = subprocess.run([*RUN, *args], stdout=writing, stderr=subprocess.PIPE, text=True, env=env, check=False)
    os.close(writing)
    assert run.stderr == ""
    assert run.returncode == 141


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_not_an_error(closed):
    command = ["/bin/sh", "-c", f'"$0" -m hdit_cli recipe list {closed}', sys.executable]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in run.stderr
    assert run.returncode == 0


@pytest.mark.parametrize("args", [[], ["recipe"]])
def test_the_list_of_commands_cuts_no_sentence_short(monkeypatch, capsys, args):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*args, "--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert listed.strip() and "..." not in listed
