import re
import subprocess
import sys
import textwrap

import pytest

from inpaint import cli

COMMANDS = sorted(cli.COMMANDS)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "inpaint", *arguments], capture_output=True, text=True, timeout=60
    )


def test_help_lists_every_command_and_imports_no_heavy_package():
    script = """
        import sys
        from inpaint.cli import main
        try:
            main(["--help"])
        finally:
            print(sorted({"torch", "fastapi", "cv2", "numpy"} & set(sys.modules)), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    for command in cli.COMMANDS:
        assert re.search(rf"\b{command.split()[0]}\b", done.stdout)


def test_the_help_of_serve_imports_no_torch():
    script = """
        import sys
        from inpaint.cli import main
        try:
            main(["serve", "--help"])
        finally:
            print(sorted({"torch", "cv2"} & set(sys.modules)), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--embedded" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_found_and_explains_itself(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*words.split(), "--help"])
    assert ended.value.code == 0
    assert f"Usage: inpaint {words}" in capsys.readouterr().out


def test_a_command_and_a_longer_one_that_begins_like_it_are_both_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--help"])
    assert ended.value.code == 0
    assert "`inpaint train holes`" in capsys.readouterr().out
    recipe = str(tmp_path / "holes.toml")
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", recipe, "--data", str(tmp_path)])
    assert ended.value.code == 1
    assert f"recipe {recipe}: " in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "holes", "--sheet", str(tmp_path / "holes.png")])
    assert ended.value.code == 0
    assert (tmp_path / "holes.png").exists()


def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setenv("INPAINT_PORT", "many")
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("inpaint: settings: INPAINT_PORT:")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve", "--nonsense"], ["bench", "nonsense"]]
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_package_that_is_not_installed_is_named_with_its_remedy(monkeypatch, capsys):
    command = cli.Command("a_package_that_is_not_there.commands:fly", "Fly.")
    monkeypatch.setitem(cli.COMMANDS, "fly", command)
    with pytest.raises(SystemExit) as ended:
        cli.main(["fly"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "a_package_that_is_not_there" in said
    assert "pip install" in said


def test_an_interrupted_command_is_exit_code_130(monkeypatch, tmp_path):
    (tmp_path / "hanging.py").write_text("import _thread\ndef hang(): _thread.interrupt_main()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "hang", cli.Command("hanging:hang", "Hang."))
    with pytest.raises(SystemExit) as ended:
        cli.main(["hang"])
    assert ended.value.code == 130


def test_python_dash_m_is_the_same_command():
    done = run("--help")
    assert done.returncode == 0
    assert "Usage: inpaint" in done.stdout
