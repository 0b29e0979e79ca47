"""What a worker that died in the middle of a plan or a question left on the disk."""

import os
from pathlib import Path

from countersign.adapters.helm.session import sweep


def test_folders_of_work_that_died_long_ago_are_removed_and_no_others(tmp_path: Path) -> None:
    for name, at in (("att_old", 100), ("att_new", 300), ("read_old", 100), ("read_new", 300), ("charts", 100), ("git", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kubeconfig").touch()
        os.utime(tmp_path / name, (at, at))

    assert sweep(tmp_path, before=200) == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["att_new", "charts", "git", "read_new"]
