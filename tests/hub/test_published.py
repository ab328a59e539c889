"""From a training to a stranger: train with the recipe, push, delete all that is local, and use what the Hub has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.records.run_folder import RunFolder
from tests.support.hub.server import HubServer, environment
from tests.support.pushes import REPO, TOKEN, USERS, push_command
from tests.support.recipe_runs import REPOSITORY, run_recipe

pytestmark = pytest.mark.slow

TEXTS = {"query": ["Welche Währung hat Japan?"], "passage": ["जापान की मुद्रा येन है।", "पेरिस फ़्रांस की राजधानी है।"]}
OPTIONS = [
    "--languages", "de,hi", "--max_steps", 4, "--global_batch_size", 16, "--scratch_hidden_size", 32,
    "--scratch_vocab_size", 600, "--use_cpu", "true", "--cpu_threads", 1, "--energy", "none",
    "--disable_tqdm", "true", "--held_out", 20, "--save_strategy", "no",
]  # fmt: skip
# What a program of somebody does who has never heard of hf_hybrid, and then of somebody who has.
STRANGER = """
import json, sys

class NotInstalled:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "hf_hybrid":
            raise ModuleNotFoundError(name)

not_installed = NotInstalled()
sys.meta_path.insert(0, not_installed)
from sentence_transformers import SentenceTransformer

texts, found = json.loads(sys.argv[1]), {}
model = SentenceTransformer("user/name")
found["SentenceTransformer"] = [model.encode_query(texts["query"]), model.encode_document(texts["passage"])]
assert model.similarity(*found["SentenceTransformer"]).shape == (1, 2)
sys.meta_path.remove(not_installed)

import evaluate, mteb, torch
from transformers import AutoModel, AutoTokenizer
from hf_hybrid import HybridEncoder
model = mteb.get_model("user/name")
found["mteb"] = [model.model.encode_query(texts["query"]), model.model.encode_document(texts["passage"])]
model = HybridEncoder.from_pretrained("user/name", revision=sys.argv[2])
found["HybridEncoder"] = [model.encode(texts[side], side) for side in ("query", "passage")]
tokenizer, model = AutoTokenizer.from_pretrained("user/name"), AutoModel.from_pretrained("user/name").eval()
found["AutoModel"] = []
for side in ("query", "passage"):
    batch = tokenizer(texts[side], padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    found["AutoModel"].append(torch.nn.functional.normalize(pooled, dim=-1).numpy())
metric = evaluate.load("user/my_metric")
runs = [{"query_id": "q", "doc_ids": ["de:1", "en:1"], "scores": [0.9, 0.7]}]
judged = [{"query_id": "q", "doc_ids": ["en:1"], "relevance": [1]}]
languages = {"query_languages": {"q": "de"}, "doc_languages": {"de:1": "de", "en:1": "en"}}
print(metric.compute(predictions=runs, references=judged, **languages)["cross_lingual/MAP"])
print(json.dumps({name: [part.tolist() for part in parts] for name, parts in found.items()}))
"""


class Published(NamedTuple):
    """What was pushed, from a run that is gone."""

    hub: HubServer
    home: Path
    commit: str
    scores: Any
    vectors: list[Any]

    def run(self, *command: object) -> str:
        """A program that knows this Hub and no other place."""
        words = [sys.executable, *map(str, command)]
        settings = environment(self.hub, self.home, TOKEN) | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        found = subprocess.run(words, env=settings, cwd=self.home, capture_output=True, text=True, timeout=300)
        assert found.returncode == 0, found.stderr[-4000:]
        return found.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    root = tmp_path_factory.mktemp("published")
    folder = root / "run"
    run_recipe(*OPTIONS, "--config", "sample/hybrid", "--output_dir", folder, launch=[sys.executable])
    model = HybridEncoder.from_pretrained(folder / "model")
    vectors = [model.encode(texts, side) for side, texts in TEXTS.items()]
    scores = RunFolder(folder).read_eval()["after"]
    with pytest.MonkeyPatch.context() as patch, HubServer(root / "hub", tokens=USERS) as hub:
        patch.setenv("HF_TOKEN", TOKEN)
        assert push_command(folder, "--repo_id", REPO, "--license", "apache-2.0").status == 0
        assert push_command("--metric", "--repo_id", "user/my_metric").status == 0
        shutil.rmtree(folder)
        home = root / "stranger"
        home.mkdir()
        yield Published(hub, home, hub.repo(REPO).commits()[0].oid, scores, vectors)


def test_every_door_gives_what_the_run_gave(published: Published) -> None:
    metric, vectors = published.run("-c", STRANGER, json.dumps(TEXTS), published.commit).splitlines()[-2:]
    assert float(metric) == 1.0, "by the settings: the other language's passage is the first of its language"
    found = json.loads(vectors)
    assert set(found) == {"SentenceTransformer", "mteb", "HybridEncoder", "AutoModel"}
    for name, vectors in found.items():
        for ours, theirs in zip(published.vectors, vectors, strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-5, err_msg=name)


def test_the_same_run_starts_from_its_name(published: Published) -> None:
    script = REPOSITORY / "recipes" / "train.py"
    more = ["--cpu_threads", 1, "--energy", "none", "--disable_tqdm", "true", "--output_dir", published.home / "again"]
    printed = published.run(script, "--like", REPO, *more)
    assert f"the same run as that of {REPO}" in printed
    assert RunFolder(published.home / "again").read_eval()["after"] == published.scores


def test_a_downloaded_repository_is_verified(published: Published) -> None:
    download = f"from huggingface_hub import snapshot_download; print(snapshot_download('{REPO}', local_dir='copy'))"
    published.run("-c", download)
    printed = published.run(REPOSITORY / "recipes" / "verify.py", published.home / "copy")
    assert "\n0 wrong, " in printed
    card = published.home / "copy" / "README.md"
    figure = f"{published.scores['multilingual']['MAP']:.4f}"
    assert figure in card.read_text()
    card.write_text(card.read_text().replace(figure, "0.9999"))
    script = [sys.executable, REPOSITORY / "recipes" / "verify.py", published.home / "copy"]
    found = subprocess.run(list(map(str, script)), capture_output=True, text=True, cwd=published.home)
    assert found.returncode == 1
    assert "wrong: README.md, line " in found.stdout
    assert "0.9999" in found.stdout
