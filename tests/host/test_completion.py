"""`sj-lang completion`: scripts that the shells accept, with what is installed."""

import shutil
import subprocess
import sys

import pytest

from sj_lang import cli


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_knows_commands_recipes_and_components(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="writes completion scripts; pip install shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*cli.COMMANDS, "--dry-run", "lm/quickstart", "neuron/lif"):
        assert word in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert checked.stderr == ""


def test_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="writes completion scripts; pip install shtab")
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    cli.main(["completion", "bash"])
    script = capsys.readouterr().out
    script += "\nCOMP_WORDS=(sj-lang run lm/qui); COMP_CWORD=2; _shtab_sj_lang sj-lang lm/qui run; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["lm/quickstart"], done.stderr


def test_without_shtab_it_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "zsh"]) == 2
    assert "pip install 'sj-lang[completion]'" in capsys.readouterr().err
