"""`recipes/mlm.py`: what it prints and leaves, how it answers mistakes, and that its model continues to `train.py`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForMaskedLM

from hf_hybrid import HybridEncoder, RunFolder
from hf_hybrid.data.batches.schedule import plan_fingerprint
from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.models.masked_lm import MaskedLanguageModel
from hf_hybrid.training.arguments import DataArguments, EncoderArguments, MlmTrainingArguments
from hf_hybrid.training.checkpoints import checkpoints, find_damage
from hf_hybrid.training.run import open_encoder
from hf_hybrid.utils.options import SETTINGS, parse_arguments
from hf_hybrid.verification.findings import WRONG
from hf_hybrid.verification.verify import verify
from tests.support.recipe_runs import REPOSITORY, Ended, recipes_here, write_jsonl_corpus, write_model
from tests.support.toys import toy_corpus

RECIPES = sorted([*(REPOSITORY / "recipes").rglob("mlm.yaml"), *SETTINGS.rglob("mlm.yaml")])
RETRIEVER = ["--save_steps", 4, "--max_eval_queries", 9, "--energy", "none", "--use_cpu", "true", "--cpu_threads", 1]
RETRIEVER += ["--disable_tqdm", "true"]
QUICK = [*RETRIEVER, "--global_batch_size", 8, "--block_length", 32, "--logging_steps", 1]
MISSING = (0.1, 0.2, 0.3, 0.4, 0.7)


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`python recipes/mlm.py OPTIONS`, or another recipe, in this process."""
    with recipes_here(monkeypatch, capsys) as call:
        yield lambda *options, name="mlm": call(name, *options)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("inputs")
    corpus = write_jsonl_corpus(folder / "corpus", missing=MISSING)
    return [
        "--train_corpus",
        corpus,
        "--cache_dir",
        folder / "cache",
        "--model_name_or_path",
        write_model(folder / "model"),
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_every_shipped_recipe_parses(path: Path) -> None:
    classes = [EncoderArguments, DataArguments, MlmTrainingArguments]
    words = ["--config", str(path), "--use_cpu", "true", "--bf16", "false"]
    model, _, args, _ = parse_arguments(classes, [*words, "--max_tokens", "1000000"])
    tokens_a_step = args.global_batch_size * args.block_length
    assert abs(args.max_steps * tokens_a_step - 1_000_000) <= tokens_a_step / 2
    assert args.output_dir == f"runs/{path.parent.name}-mlm"
    assert args.smoothing == 0.7
    assert (model.model_name_or_path is None) == (path.parent.name == "sample")
    assert len(RECIPES) == 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
class TestARunAndWhatFollows:
    """A retriever's run, masked language modeling on as many tokens, and contrastive training of what that left."""

    @pytest.fixture
    def first(self, place: Path, inputs: list[object], run: Run) -> Path:
        """Of `train.py`."""
        if not (place / "first").exists():
            options = ["--max_steps", 9, "--global_batch_size", 16, "--logging_steps", 5, "--evaluate_before", "false"]
            found = run(*inputs, *RETRIEVER, *options, "--output_dir", place / "first", name="train")
            assert found.returncode == 0, found.stderr
        return place / "first"

    @pytest.fixture
    def words(self, place: Path, first: Path, inputs: list[object]) -> list[object]:
        return [*inputs, *QUICK, "--tokens_of", first, "--output_dir", place / "mlm"]

    @pytest.fixture
    def finished(self, place: Path, words: list[object], run: Run) -> Path:
        if not (place / "mlm").exists():
            found = run(*words)
            assert found.returncode == 0, found.stderr
            told = found.stdout
            assert told.index("training corpus: ") < told.index("plan: ") < told.index("multilingual/MAP")
            assert told.index("multilingual/MAP") < told.index("Loss ") < told.index("Next: ")
            (place / "mlm.txt").write_text(told)
        return place / "mlm"

    def test_it_has_the_budget_of_the_other_run(self, first: Path, finished: Path) -> None:
        budget, resources = (RunFolder(path).read_resources() for path in (first, finished))
        assert abs(resources["tokens"] - budget["tokens"]) <= 8 * 32 / 2
        assert resources["num_steps"] > 3
        assert sum(share["tokens"] for share in resources["per_language"].values()) == resources["tokens"]
        assert resources["padding_tokens"] == 0

    def test_the_folder_has_the_files_of_any_run(self, finished: Path) -> None:
        folder = RunFolder(finished)
        run, plan, scores = folder.read_run(), folder.read_plan(), folder.read_eval()
        assert (run["status"], run["mix"]) == ("finished", "mlm")
        assert run["config"]["block_length"] == 32
        assert "temperature" not in run["config"]
        language_pairs = [(pair["batch_type"], pair["language_pair"]) for pair in plan["language_pairs"]]
        assert language_pairs == [("mlm", language) for language in ("ar", "de", "en", "hi", "zh")]
        assert len(plan["batches"]) == run["config"]["max_steps"] * 8, "a number for each block"
        assert plan_fingerprint(language_pairs, plan["batches"]) == plan["fingerprint"] == run["identity"]["plan"]
        assert scores["before"] is not None
        assert scores["after"] is not None
        assert scores["before"] != scores["after"]
        assert f"{scores['after']['monolingual']['MAP']:.4f}" in (finished.parent / "mlm.txt").read_text()
        assert len(folder.read_resource_lines()[0]) == run["config"]["max_steps"]
        assert (finished / "evaluations" / "before" / "per_query.parquet").exists()
        assert find_damage(finished / "model") is None
        assert len(checkpoints(finished)) == 2

    def test_what_it_says_of_itself_holds(self, finished: Path, place: Path) -> None:
        found = verify(finished)
        assert [finding for finding in found if finding.status == WRONG] == []
        told = (finished / "README.md").read_text()
        assert "Masked language modeling as in mBERT" in told
        assert "accelerate launch -m hf_hybrid mlm --model_name_or_path" in told
        copy = shutil.copytree(finished, place / "copy", ignore=shutil.ignore_patterns("bundle"))
        plan = RunFolder(copy).read_plan()
        rare = min(range(5), key=plan["batches"].count)
        plan["batches"][:6] = [rare] * 6
        RunFolder(copy).write_plan(plan)
        wrong = [finding.place for finding in verify(copy) if finding.status == WRONG]
        assert f"plan.json: blocks of {plan['language_pairs'][rare]['language_pair']}" in wrong

    def test_its_model_loads_with_all(self, finished: Path) -> None:
        path = finished / "model"
        model = AutoModelForMaskedLM.from_pretrained(path)
        count = sum(weight.numel() for weight in model.parameters())
        assert RunFolder(finished).read_run()["model"]["num_parameters"] == count
        inner = AutoModel.from_pretrained(path, add_pooling_layer=False)
        weights = dict(inner.named_parameters())
        assert all(torch.equal(weights[name], weight) for name, weight in model.base_model.named_parameters())
        texts = ["en1 river stone", "de2 winter"]
        ours = HybridEncoder.from_pretrained(path).encode(texts, "query")
        assert SentenceTransformer(str(path), device="cpu").encode(texts) == pytest.approx(ours, abs=1e-6)

    def test_the_same_command_says_that_it_is_finished(self, words: list[object], finished: Path, run: Run) -> None:
        found = run(*words)
        assert f"{finished} holds this very run, which has finished." in found.stdout
        refused = run(*words, "--masking", "dynamic")
        assert refused.returncode == 2
        assert "belongs to another run: masking was 'static' and is 'dynamic'" in refused.stderr

    def test_it_is_fine_tuned_as_any_checkpoint(
        self, finished: Path, inputs: list[object], place: Path, run: Run
    ) -> None:
        words = [*inputs[:4], "--model_name_or_path", finished / "model", *RETRIEVER, "--global_batch_size", 16]
        found = run(*words, "--max_steps", 2, "--output_dir", place / "tuned", name="train")
        assert found.returncode == 0, found.stderr
        before, after = (RunFolder(place / name).read_eval() for name in ("tuned", "mlm"))
        assert before["before"] == after["after"], "untouched, it is what was measured"


def test_a_dry_run_shows_blocks_and_trains_nothing(inputs: list[object], tmp_path: Path, run: Run) -> None:
    found = run(
        *inputs, *QUICK, "--dry_run", "--max_steps", 3, "--mlm_probability", 0.5, "--output_dir", tmp_path / "run"
    )
    assert found.returncode == 0, found.stderr
    assert "plan: 3 steps of 8 blocks of 32 tokens, 768 tokens in all" in found.stdout
    assert "[MASK]" in found.stdout
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "0.1"], "--temperature is not known"),
        (["--mix", "mono=1"], "--mix is not known"),
        (["--max_tokens", "9999", "--max_steps", "3"], "max_steps and max_tokens both say how long to train"),
        (["--tokens_of", "nowhere"], "has no run.json. Give the folder of a finished run"),
        (["--block_length", "700"], "block_length must be at most 512, the positions of the model, got 700"),
        (["--block_length", "500", "--languages", "zh,en"], "all texts in zh together have"),
        (["--masking", "none"], "masking must be one of static, dynamic"),
        (["--model_name_or_path", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_explained(
    options: list[str], message: str, inputs: list[object], tmp_path: Path, run: Run
) -> None:
    found = run(*inputs, *QUICK, "--output_dir", tmp_path / "run", *options)
    assert found.returncode == 2, found.stderr[-2000:]
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_a_corpus_without_a_model_is_refused(inputs: list[object], run: Run) -> None:
    found = run(*inputs[:2])
    assert found.returncode == 2
    assert "--train_corpus without a model" in found.stderr


def test_from_scratch_it_begins_where_the_retriever_begins() -> None:
    """With the same tokenizer and encoder, both of the training corpus alone."""
    corpus: ParallelCorpus = toy_corpus(languages=("de", "en"), missing=0.2).split(0.2)[0]
    arguments = EncoderArguments(scratch_hidden_size=16, scratch_num_layers=1, scratch_vocab_size=200)
    made = []
    for kind in (HybridEncoder, MaskedLanguageModel):
        torch.manual_seed(0)
        made.append(open_encoder(kind, arguments, corpus))
    definitions = [json.loads(model.tokenizer.backend_tokenizer.to_str()) for model in made]
    assert definitions[0] == definitions[1]
    ours = made[1].state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in made[0].state_dict().items())
