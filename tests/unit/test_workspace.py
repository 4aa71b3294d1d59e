"""Scratch space: files of a killed run are removed, and no others."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from nyc_tlc.workspace import workspace


def test_nothing_of_others_is_removed(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "thesis").mkdir(parents=True)
    (scratch / "thesis" / "chapter1.tex").write_text("years of work")
    (scratch / "run-00000000000a").symlink_to(scratch / "thesis")
    (scratch / "notes.txt").write_text("mine")
    with workspace(scratch):
        pass
    assert (scratch / "thesis" / "chapter1.tex").read_text() == "years of work"
    assert (scratch / "notes.txt").exists()


def test_what_a_killed_run_left_is_removed_by_the_next_one_and_a_living_ones_is_not(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from nyc_tlc.workspace import workspace;"
        "own = workspace(Path(sys.argv[1])); print(own.__enter__(), flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "flows")}
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        other = Path(process.stdout.readline().strip())
        with workspace(tmp_path):
            pass
        assert other.is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        with workspace(tmp_path):
            pass
    assert not other.exists()
