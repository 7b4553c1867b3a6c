"""The code blocks of `docs/adding_a_stage.md`, put into the named places, make a stage that runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for before, after in changes:
        assert before in text, f"{path.name} has no {before!r}"
        text = text.replace(before, after, 1)
    path.write_text(text)


def test_the_recipe_can_be_followed(tmp_path: Path) -> None:
    page = (ROOT / "docs/adding_a_stage.md").read_text()
    config, section, kind, stage, line, test = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    package = tmp_path / "nanochat"
    shutil.copytree(ROOT / "nanochat", package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "config/data.py").open("a") as file:
        file.write(f"\n\n{config}")
    edit(
        package / "config/pipeline.py",
        ("from nanochat.", "from nanochat.config.data import WordsConfig\nfrom nanochat."),
        ("    pretrain: ", f"{section}    pretrain: "),
    )
    edit(package / "store/artifacts.py", ("\nKINDS", f"\n{kind}\n\nKINDS"))
    (package / "stages/words.py").write_text(stage)
    imports = "from nanochat.stages.words import count_words\nfrom nanochat.store.artifacts import WordCounts\n"
    edit(
        package / "graphs/pipeline.py",
        ("from nanochat.", f"{imports}from nanochat."),
        ("    data_card: Node[DataCard]\n", "    data_card: Node[DataCard]\n    words: list[Node[WordCounts]]\n"),
        ("    return Text(", f"{line}    return Text(words=words, raw="),
        (
            "raw=raw, used, tokens, rows, data_card(",
            "raw=raw, vocabulary=used, tokens=tokens, rows=rows, data_card=data_card(",
        ),
    )
    (tmp_path / "test_words.py").write_text(test)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NANOCHAT_HOME": str(tmp_path / "home")}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("pytest", "-q", "-p", "no:cacheprovider", "test_words.py")
    assert "count_words world_00003" in run("nanochat.cli", "plan")
