"""What the README shows works: its commands run here, on a tiny profile, through a real Prefect and S3 server."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.store.objects import Objects
from nanochat.store.store import Store
from tests.serve.models import ANSWER, chain_model, publish
from tests.serve.servers import running
from tests.test_whole_chain import TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SESSION = "\n".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
COMMANDS = list(dict.fromkeys(line.strip() for line in re.findall(r"^\$ (nanochat [^#\n]*)", SESSION, re.MULTILINE)))
CLIENT_CODE, TOKENIZER_CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DEMO = re.findall(r"^\t\$\(BIN\)/(nanochat .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
EXPECTED = {
    "nanochat run --profile demo": r"14 computed, 0 cached",
    'nanochat chat -p "Hello! Who are you?"': r"\S",
    "nanochat run": r"0 computed, 14 cached",
    "nanochat run --set sft.epochs=2": r"3 computed, 11 cached",
    "nanochat plan --set pretrain.depth=6": r"pretrain\s+would run\s+.*depth 2 → 6",
    "nanochat ls": r"chat/latest",
    "nanochat lineage chat/latest": r"download",
    "nanochat why chat/latest": r"epochs 1 → 2",
    "nanochat diff 1a2b3c 4d5e6f": r"epochs",
    "nanochat runs": r"completed\s+demo",
    "nanochat verify": r"artifacts are whole",
    "nanochat gc": r"Nothing|would",
    "nanochat evaluate chat/latest --open": r"(?s)evaluate_chat/[0-9a-f]{12}.*questions  .*html",
    "nanochat evaluate base/latest --text book.txt": r"(?s)evaluate_text/[0-9a-f]{12}.*bits per byte \d",
    "nanochat run --profile cpu --set data.source=path/to/folder": r"download a\s+would run",
    "nanochat run --store s3://bucket/prefix": r"0 computed, 14 cached",
}
ELSEWHERE = {
    "nanochat fetch --profile speedrun --store s3://bucket/prefix": (
        "tests/promises/test_fetched_runs_need_no_network.py"
    ),
    "nanochat evaluate base/latest --bundle eval_bundle.zip": "tests/evaluation/test_evaluate_command.py",
    "nanochat evaluate hf://org/name --bundle eval_bundle.zip": "tests/evaluation/test_evaluate_command.py",
    "nanochat serve": "tests/serve/test_command.py",
    "nanochat up": "tests/flows/test_up.py",
    "nanochat down": "tests/flows/test_up.py",
}
"""They need a network, do not end or change the machine; the tests that run them."""


def test_every_command_is_run() -> None:
    assert len(DEMO) == 2
    assert {*DEMO, *COMMANDS} == EXPECTED.keys() | ELSEWHERE.keys()
    assert all((ROOT / path).is_file() for path in ELSEWHERE.values())


@pytest.fixture(scope="module")
def outputs(s3_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of each command, in the README's order."""
    home, texts = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("texts")
    (texts / "a.txt").write_text("\n\n".join(f"Document {number} of a folder of texts." for number in range(100)))
    root = f"s3://bucket/{uuid.uuid4().hex}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        Objects(root).make_bucket()
    environment = {**os.environ, **s3_server, "NANOCHAT_HOME": str(home), "NANOCHAT_STORE": root, "COLUMNS": "250"}
    environment.pop("PREFECT_API_URL", None)
    environment["BROWSER"] = "true"  # a program that opens nothing

    def nanochat(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "nanochat.cli", *arguments], capture_output=True, text=True, env=environment
        )
        return done.returncode, done.stdout + done.stderr

    done = {}
    for command in dict.fromkeys([*DEMO, *COMMANDS]):
        if command in ELSEWHERE:
            continue
        _, name, *rest = shlex.split(command)
        tiny = [word for change in TINY for word in ("--set", change)]
        if name == "run" and "cpu" in rest:
            rest = [word.replace("path/to/folder", str(texts)) for word in [*tiny, *rest, "--dry-run"]]
        elif name in ("run", "plan"):
            rest = [*tiny, *[word.replace("s3://bucket/prefix", root) for word in rest]]
        elif name == "evaluate":
            rest = [
                *[word.replace("book.txt", str(texts / "a.txt")) for word in rest],
                *(tiny if "--open" in rest else ()),
            ]
        elif name == "diff":
            rest = [f"sft/{line.split()[3]}" for line in nanochat("ls", "--stage", "sft")[1].splitlines()[1:]]
        done[command] = nanochat(name, *rest)
    return done


@pytest.mark.s3
@pytest.mark.prefect
@pytest.mark.parametrize("command", EXPECTED)
def test_the_command_does_what_is_written(command: str, outputs: dict[str, tuple[int, str]]) -> None:
    code, output = outputs[command]
    assert code == 0, output
    assert re.search(EXPECTED[command], output), output


def test_the_code_of_the_tokenizer_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [" ".join(f"{number} of {number * 7} words" for number in range(500))]
    pq.write_table(pa.table({"text": texts}), "shard.parquet")
    names = {"texts": texts, "path": tmp_path / "tokenizer.json"}
    exec(TOKENIZER_CODE.replace("32_768", "280"), names)
    assert names["text"] == texts[0]
    assert (tmp_path / "tokenizer.json").exists()


def test_the_requests_to_a_server_get_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (curl,) = re.findall(r"^\$ (curl .*?[^\\])\n", SESSION, re.MULTILINE | re.DOTALL)
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    publish(store, tmp_path / "model", chain_model(), key="1" * 64, alias="chat/latest")
    with running(store) as server:
        exec(CLIENT_CODE.replace("http://127.0.0.1:8000", server.address), {})
        assert capsys.readouterr().out.strip() == ANSWER
        line = shlex.split(curl.replace("http://127.0.0.1:8000", server.address).replace("\\\n", ""))
        done = subprocess.run([*line, "--silent"], capture_output=True, text=True)
        assert '"chat.completion"' in done.stdout, done


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", README))
    assert {"demo", "test", "check"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
