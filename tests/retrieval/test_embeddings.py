"""Embeddings of any model, each text encoded once, and what is there after a kill."""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.sides import SIDE_NAMES
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.retrieval import embeddings
from hf_hybrid.retrieval.embeddings import EmbeddingStore, TextEncoder
from tests.support.toys import toy_corpus, toy_encoder

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = [
    "river stone",
    "winter",
    "copper meadow lantern orchard canvas",
    "a",
    "harbor mirror",
    "signal engine",
    "ink",
]
PROMPTS: dict[str, Any] = {"query_prompt": "query: ", "passage_prompt": "passage: "}
QUERY, PASSAGE = 0, 1


def vector_of(text: str, size: int = 8) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(text.encode())).standard_normal(size).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Killed(Exception):
    """What ends a run before its time."""


class PlainModel:
    """An object that has nothing but `encode`; `form` makes its output of an array."""

    def __init__(self, form: Callable[[np.ndarray], Any] = np.asarray) -> None:
        self.form, self.asked = form, list[str]()

    def encode(self, texts: list[str]) -> Any:
        self.asked += texts
        return self.form(np.stack([vector_of(text) for text in texts]))


class SidedModel:
    """Encodes like a `HybridEncoder`; raises when it has been asked `calls` times, remembers all texts."""

    def __init__(self, calls: int | None = None) -> None:
        self.device, self.calls = torch.device("cpu"), calls
        self.asked: list[tuple[str, str]] = []

    def encode(self, texts: list[str], side: str, *, batch_tokens: int, share: tuple[int, int]) -> np.ndarray:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise Killed
        rank, world_size = share
        found = np.zeros((len(texts), 8), dtype=np.float32)
        for number in range(rank, len(texts), world_size):
            self.asked.append((side, texts[number]))
            found[number] = vector_of(side + texts[number])
        return found


# One way to ask any model


def sentence_transformer(folder: str | Path) -> Any:
    from sentence_transformers import SentenceTransformer  # here, since started processes import this file

    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def saved_encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[HybridEncoder, Path]:
    """An encoder with prompts, and a folder that it is saved to."""
    encoder = toy_encoder(toy_corpus(20), **PROMPTS)
    folder = tmp_path_factory.mktemp("model")
    encoder.save_pretrained(folder)
    return encoder, folder


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("side", SIDE_NAMES)
def test_a_hybrid_encoder_is_asked_for_its_side(saved_encoder: tuple[HybridEncoder, Path], side: str) -> None:
    encoder, _ = saved_encoder
    np.testing.assert_array_equal(TextEncoder(encoder).encode(TEXTS, side), encoder.encode(TEXTS, side))
    assert not np.allclose(encoder.encode(TEXTS, "query"), encoder.encode(TEXTS, "passage"), atol=1e-2)


def test_a_hybrid_encoder_is_told_how_many_tokens_a_batch_has() -> None:
    class Asked(SidedModel):
        def encode(self, texts: list[str], side: str, *, batch_tokens: int, share: tuple[int, int]) -> np.ndarray:
            self.told = batch_tokens
            return super().encode(texts, side, batch_tokens=batch_tokens, share=share)

    model = Asked()
    TextEncoder(model, batch_tokens=77).encode(TEXTS, "query")
    assert model.told == 77


@pytest.mark.parametrize("side", SIDE_NAMES)
def test_a_sentence_transformer_is_asked_with_its_prompts(
    saved_encoder: tuple[HybridEncoder, Path], side: str
) -> None:
    encoder, folder = saved_encoder
    model = sentence_transformer(folder)
    assert_near(TextEncoder(model).encode(TEXTS, side), encoder.encode(TEXTS, side))


@pytest.mark.parametrize("side", SIDE_NAMES)
@pytest.mark.parametrize("prompt", ["", "search: "])
def test_prompts_that_are_given_override_those_of_a_sentence_transformer(
    saved_encoder: tuple[HybridEncoder, Path], side: str, prompt: str
) -> None:
    encoder, folder = saved_encoder
    model = sentence_transformer(folder)
    plain = HybridEncoder.from_pretrained(folder, query_prompt="", passage_prompt="").eval()
    plain.prompts = {"query": "", "passage": ""}
    given: dict[str, Any] = {f"{side}_prompt": prompt}
    found = TextEncoder(model, **given).encode(TEXTS, side)
    assert_near(found, plain.encode([prompt + text for text in TEXTS], side))
    assert not np.allclose(found, encoder.encode(TEXTS, side), atol=1e-2)
    other = SIDE_NAMES[1 - SIDE_NAMES.index(side)]
    assert_near(TextEncoder(model, **given).encode(TEXTS, other), encoder.encode(TEXTS, other))


def test_a_sentence_transformer_is_compared_as_it_says(tmp_path: Path) -> None:
    encoder = toy_encoder(toy_corpus(20), normalize=False)
    encoder.save_pretrained(tmp_path)
    model = sentence_transformer(tmp_path)
    raw = encoder.encode(TEXTS, "query")
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.1
    assert model.similarity_fn_name == "dot"
    np.testing.assert_allclose(TextEncoder(model).encode(TEXTS, "query"), raw, atol=1e-4)
    model.similarity_fn_name = "cosine"
    assert_near(TextEncoder(model).encode(TEXTS, "query"), unit(raw))
    model.similarity_fn_name = "euclidean"
    with pytest.raises(ValueError, match="'euclidean'; rankings are made by cosine or dot"):
        TextEncoder(model).encode(TEXTS, "query")


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "float64": lambda vectors: vectors.astype(np.float64),
    "lists": lambda vectors: vectors.tolist(),
    "list of arrays": list,
    "tensor": torch.from_numpy,
    "tensor with gradient": lambda vectors: torch.from_numpy(vectors).requires_grad_(),
    "list of tensors": lambda vectors: list(torch.from_numpy(vectors)),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_object_with_encode_is_compared_by_cosine(form: str) -> None:
    found = TextEncoder(PlainModel(FORMS[form])).encode(TEXTS, "passage")
    raw = np.stack([vector_of(text) for text in TEXTS])
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.1
    assert_near(found, unit(raw))


def test_a_tensor_in_bf16_is_taken() -> None:
    found = TextEncoder(PlainModel(lambda vectors: torch.from_numpy(vectors).bfloat16())).encode(TEXTS, "passage")
    np.testing.assert_allclose(found, unit(np.stack([vector_of(text) for text in TEXTS])), atol=0.01)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)


def test_a_zero_vector_stays_zero() -> None:
    assert not TextEncoder(PlainModel(np.zeros_like)).encode(TEXTS, "query").any()


def test_any_object_gets_the_prompts_before_its_texts() -> None:
    model = PlainModel()
    encoder = TextEncoder(model, **PROMPTS)
    encoder.encode(["one"], "query")
    encoder.encode(["two"], "passage")
    assert model.asked == ["query: one", "passage: two"]


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (lambda vectors: vectors[0], "(8,)"),
        (lambda vectors: vectors[:, 0], "(7,)"),
        (lambda vectors: vectors[1:], "(6, 8)"),
        (lambda vectors: vectors[:, None], "(7, 1, 8)"),
    ],
)
def test_output_that_is_not_one_vector_for_each_text_is_refused(form: Callable[[np.ndarray], Any], shape: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"PlainModel.encode gave an array of shape {shape} for 7 texts")):
        TextEncoder(PlainModel(form)).encode(TEXTS, "query")


def test_a_model_without_encode_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no method `encode`; give a HybridEncoder, a SentenceTransformer"):
        TextEncoder(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_prompts_for_a_model_with_its_own_are_refused(name: str, prompt: str) -> None:
    given: dict[str, Any] = {name: prompt}
    with pytest.raises(ValueError, match="SidedModel puts its own prompts before texts"):
        TextEncoder(SidedModel(), **given)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("kind", ["plain", "sentence transformer", "hybrid"])
def test_shares_of_several_processes_add_up_to_the_whole(
    saved_encoder: tuple[HybridEncoder, Path], kind: str, number: int, world_size: int
) -> None:
    encoder, folder = saved_encoder
    model: Any = PlainModel() if kind == "plain" else encoder
    if kind == "sentence transformer":
        model = sentence_transformer(folder)
    asker, texts = TextEncoder(model), TEXTS[:number]
    parts = [asker.encode(texts, "query", (rank, world_size)) for rank in range(world_size)]
    assert {part.shape for part in parts} == {asker.encode(texts, "query").shape}
    encoded = [part.any(axis=1) for part in parts]
    assert (np.sum(encoded, axis=0) == 1).all()  # each text by one process
    assert max(map(np.sum, encoded)) == -(-number // world_size)
    np.testing.assert_allclose(np.sum(parts, axis=0), asker.encode(texts, "query"), atol=1e-5)


def test_every_process_gets_texts_of_all_lengths_the_longest_first() -> None:
    lengths = []
    for rank in range(2):
        model = PlainModel()
        TextEncoder(model).encode(["x" * length for length in (3, 8, 1, 6, 2, 7)], "query", (rank, 2))
        lengths.append([len(text) for text in model.asked])
    assert lengths == [[8, 6, 2], [7, 3, 1]]


def test_a_process_without_a_text_encodes_one_to_know_the_size() -> None:
    model = PlainModel()
    found = TextEncoder(model).encode(TEXTS[:2], "query", (2, 3))
    assert found.shape == (2, 8)
    assert not found.any()
    assert len(model.asked) == 1


# Shards


def all_shards(
    model: Any, corpus: ParallelCorpus, folder: Path | None, rows: slice = slice(None), **options: Any
) -> dict[tuple[int, str], np.ndarray]:
    """Embeddings of all texts of a corpus, by side and language, through a store."""
    prompts = {name: options.pop(name) for name in PROMPTS if name in options}
    found = {}
    options = {"keep": folder is not None, **options}
    with EmbeddingStore(TextEncoder(model, **prompts), corpus, folder, **options) as store:
        for side in (QUERY, PASSAGE):
            for language in corpus.languages:
                texts = corpus.queries(language) if side == QUERY else corpus.passages(language)
                paths = store.shards(side, language, np.arange(len(texts))[rows])
                found[side, language] = np.concatenate([np.load(path) for path in paths])
    return found


def texts_of(corpus: ParallelCorpus) -> list[tuple[str, str]]:
    return [
        (SIDE_NAMES[side], text)
        for side in (QUERY, PASSAGE)
        for language in corpus.languages
        for text in (corpus.queries(language), corpus.passages(language))[side].to_pylist()
    ]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_SHARD_ROWS", 10)


@pytest.mark.usefixtures("small_shards")
def test_each_text_is_encoded_once_and_kept_in_its_row(tmp_path: Path) -> None:
    corpus, model = toy_corpus(24, ("de", "en"), missing=[0.0, 0.3]), SidedModel()
    found = all_shards(model, corpus, tmp_path, model_key="mine")
    assert Counter(model.asked) == Counter(texts_of(corpus))
    assert max(Counter(model.asked).values()) == 1
    for (side, language), embeddings_ND in found.items():
        texts = (corpus.queries(language), corpus.passages(language))[side].to_pylist()
        np.testing.assert_array_equal(embeddings_ND, [vector_of(SIDE_NAMES[side] + text) for text in texts])


@pytest.mark.usefixtures("small_shards")
def test_shards_have_so_many_rows_and_progress_is_told(tmp_path: Path) -> None:
    corpus = toy_corpus(24, ("de",), missing=0.0)
    for _ in range(2):  # the second time they are there
        told: list[int] = []
        with EmbeddingStore(TextEncoder(SidedModel()), corpus, tmp_path, "mine", keep=True) as store:
            paths = store.shards(QUERY, "de", np.arange(24), told.append)
            assert store.shards(QUERY, "de", np.arange(0)) == []
        assert [np.load(path).shape for path in paths] == [(10, 8), (10, 8), (4, 8)]
        assert told == [10, 10, 4]


@pytest.mark.usefixtures("small_shards")
def test_some_rows_only(tmp_path: Path) -> None:
    corpus, model = toy_corpus(60, ("de",), missing=0.0), SidedModel()
    rows = np.flatnonzero(np.random.default_rng(0).random(60) < 0.4)
    assert 10 < len(rows) < 30
    with EmbeddingStore(TextEncoder(model), corpus, tmp_path, "mine") as store:
        paths = store.shards(PASSAGE, "de", rows)
        found = np.concatenate([np.load(path) for path in paths])
    texts = [corpus.text(PASSAGE, "de", int(row)) for row in rows]
    assert [text for _, text in model.asked] == texts
    np.testing.assert_array_equal(found, [vector_of("passage" + text) for text in texts])


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("calls", [0, 1, 4, 7])
def test_a_run_that_was_killed_goes_on_where_it_stopped(calls: int, tmp_path: Path) -> None:
    corpus, killed, model = toy_corpus(24, ("de", "en"), missing=0.0), SidedModel(calls), SidedModel()
    assert len(texts_of(corpus)) == 2 * 2 * 24  # in three shards each
    with pytest.raises(Killed):
        all_shards(killed, corpus, tmp_path, model_key="mine", keep=False)
    assert len(list(tmp_path.rglob("*.npy"))) == calls
    found = all_shards(model, corpus, tmp_path, model_key="mine")
    assert not set(killed.asked) & set(model.asked)
    assert Counter(killed.asked + model.asked) == Counter(texts_of(corpus))
    whole = all_shards(SidedModel(), corpus, None)
    for key, embeddings_ND in found.items():
        np.testing.assert_array_equal(embeddings_ND, whole[key])


def test_a_file_that_a_kill_left_unfinished_is_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, model = toy_corpus(24, ("de",), missing=0.0), SidedModel()
    save = np.save

    def torn(path: Path, array: np.ndarray) -> None:
        save(path, array[: len(array) // 2])
        os.rename(path, path.with_suffix(".left"))  # as after SIGKILL, which cleans nothing
        raise Killed

    monkeypatch.setattr(np, "save", torn)
    with pytest.raises(Killed):
        all_shards(model, corpus, tmp_path, model_key="mine")
    monkeypatch.setattr(np, "save", save)
    left = [path.name for path in tmp_path.rglob("*query.de.*")]
    assert len(left) == 1
    assert left[0].startswith(".")
    again = SidedModel()
    found = all_shards(again, corpus, tmp_path, model_key="mine")
    assert Counter(again.asked) == Counter(texts_of(corpus))
    assert len(found[QUERY, "de"]) == 24


def test_shards_stay_only_where_they_are_to_be_kept(tmp_path: Path) -> None:
    corpus = toy_corpus(12, ("de",), missing=0.0)
    all_shards(SidedModel(), corpus, tmp_path, model_key="mine", keep=False)
    assert list(tmp_path.iterdir()) == []
    all_shards(SidedModel(), corpus, tmp_path, model_key="mine", keep=True)
    all_shards(SidedModel(), corpus, tmp_path, model_key="yours", keep=False)
    model = SidedModel()
    all_shards(model, corpus, tmp_path, model_key="mine", keep=False)  # uses what is kept, and leaves it
    assert not model.asked
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_another_tokenizer_is_another_model() -> None:
    encoder = toy_encoder(toy_corpus(12))
    before = TextEncoder(encoder).key()
    encoder.tokenizer.backend_tokenizer.normalizer = None
    assert TextEncoder(encoder).key() != before


def asked_again(first: Any, second: Any, folder: Path) -> bool:
    """Whether the second run computes embeddings in the folder of the first."""
    first(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert len(before) == 4
    second(folder)
    assert all(path.stat().st_mtime_ns == modified for path, modified in before.items())
    return {*folder.rglob("*.npy")} != {*before}


def run(**options: Any) -> Callable[[Path], Any]:
    """An evaluation's embeddings, of a model made with these settings."""
    given: dict[str, Any] = {"items": 12, "seed": 0, "rows": slice(None), **options}
    kind, autocast = given.pop("kind", "hybrid"), given.pop("autocast", False)
    corpus = toy_corpus(given.pop("items"), ("de", "en"), missing=0.0, seed=given.pop("seed"))
    rows, weight, similarity = given.pop("rows"), given.pop("weight", 0.0), given.pop("similarity", "cosine")
    truncate_dim = given.pop("truncate_dim", None)
    store = {name: given.pop(name) for name in ("model_key", *(PROMPTS if kind != "hybrid" else ())) if name in given}

    def start(folder: Path) -> None:
        model: Any = toy_encoder(toy_corpus(12), normalize=False, **given)
        with torch.no_grad():
            next(model.parameters())[7, 3] += weight
        if kind == "sentence transformer":
            saved = tempfile.mkdtemp()
            model.save_pretrained(saved)
            model = sentence_transformer(saved)
            model.similarity_fn_name, model.truncate_dim = similarity, truncate_dim
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            all_shards(PlainModel() if kind == "plain" else model, corpus, folder, rows, **store)

    return start


SENTENCE: dict[str, Any] = {"kind": "sentence transformer"}
NAMED: dict[str, Any] = {"kind": "plain", "model_key": "mine"}


@pytest.mark.parametrize("settings", [{}, SENTENCE, NAMED], ids=str)
def test_the_same_again_reuses_every_shard(settings: dict[str, Any], tmp_path: Path) -> None:
    assert not asked_again(run(**settings), run(**settings), tmp_path)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({}, {"weight": 1e-3}),
        ({}, {"seed": 1}),
        ({}, {"rows": slice(1, None)}),
        ({}, {"query_prompt": "q: "}),
        ({}, {"passage_prompt": "p: "}),
        ({}, {"max_length": 7}),
        ({}, {"pooling": "cls"}),
        ({}, {"autocast": True}),
        (SENTENCE, {"query_prompt": "q: "}),
        (SENTENCE, {"similarity": "dot"}),
        (SENTENCE, {"truncate_dim": 16}),
        (SENTENCE, {"weight": 1e-3}),
        (NAMED, {"model_key": "yours"}),
        (NAMED, {"passage_prompt": "p: "}),
        (NAMED, {"seed": 1}),
    ],
    ids=str,
)
def test_what_changes_embeddings_makes_new_shards(
    base: dict[str, Any], change: dict[str, Any], tmp_path: Path
) -> None:
    assert asked_again(run(**base), run(**{**base, **change}), tmp_path)


def test_a_model_that_cannot_be_told_from_others_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PlainModel: it has no weights by which its embeddings can be told"):
        all_shards(PlainModel(), toy_corpus(5), tmp_path)


@pytest.mark.parametrize("calls", [None, 2])
def test_a_temporary_folder_is_removed_also_on_an_error(
    calls: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    corpus = toy_corpus(12, ("de", "en"))
    kept = {path.name for path in tmp_path.iterdir()}
    store = EmbeddingStore(TextEncoder(SidedModel(calls)), corpus)
    try:
        with store:
            assert {path.name for path in tmp_path.iterdir()} - kept == {store.folder.name}
            for side in (QUERY, PASSAGE, QUERY):
                assert store.shards(side, "de", np.arange(3 + side))[0].exists()
                store.shards(side, "en", np.arange(3))
    except Killed:
        assert calls == 2
    else:
        assert calls is None
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_folder_that_is_given_stays(tmp_path: Path) -> None:
    all_shards(SidedModel(), toy_corpus(5), tmp_path / "new" / "folder", model_key="mine")
    assert len(list(tmp_path.rglob("*.npy"))) == 2 * 5


@pytest.mark.parametrize("wrong_side", SIDE_NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_refused_and_not_kept(
    wrong_side: str, value: float, tmp_path: Path
) -> None:
    class Diverged(SidedModel):
        def encode(self, texts: list[str], side: str, *, batch_tokens: int, share: tuple[int, int]) -> np.ndarray:
            found = super().encode(texts, side, batch_tokens=batch_tokens, share=share)
            if (side, texts[0][:2]) == (wrong_side, "en"):
                found[1, 2] = value
            return found

    corpus = toy_corpus(5, ("de", "en", "zh"), missing=0.0)
    with pytest.raises(ValueError, match=f"Embeddings of {wrong_side} texts in 'en' are not finite"):
        all_shards(Diverged(), corpus, tmp_path, model_key="mine")
    assert len(list(tmp_path.rglob("*.npy"))) == (1 if wrong_side == "query" else 4)


# Several processes


def _store_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(minutes=1)
    )
    embeddings._SHARD_ROWS, tempfile.tempdir = 10, f"{folder}/temporary"
    corpus, model = ParallelCorpus.load(f"{folder}/corpus"), SidedModel()
    all_shards(model, corpus, Path(folder) / "shared", model_key="mine")
    asked = len(model.asked)
    all_shards(model, corpus, Path(folder) / "shared", model_key="mine")  # all is there
    assert len(model.asked) == asked
    found = all_shards(model, corpus, None)
    torch.distributed.barrier()  # the first process has removed the temporary folder
    left = os.listdir(tempfile.tempdir)
    torch.distributed.barrier()
    columns: dict[str, Any] = {f"{side}.{language}": part for (side, language), part in found.items()}
    np.savez(f"{folder}/rank{rank}.npz", asked=asked, left=left, **columns)
    all_shards(SidedModel(calls=2 if rank == 1 else None), corpus, None)


@pytest.mark.distributed
def test_two_processes_share_the_work_and_one_that_fails_waits_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = toy_corpus(21, ("de", "en"), missing=0.0).save(tmp_path / "corpus")
    (tmp_path / "temporary").mkdir()
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=r"Killed\s*$"):
        torch.multiprocessing.spawn(_store_rank, (str(tmp_path),), nprocs=2)
    monkeypatch.setattr(embeddings, "_SHARD_ROWS", 10)
    expected = all_shards(SidedModel(), corpus, tmp_path / "alone", model_key="mine")
    alone, shared = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.npy")} for name in ("alone", "shared")
    )
    assert len(alone) == 2 * 2 * 3
    assert shared == alone
    ranks = [dict(np.load(tmp_path / f"rank{rank}.npz")) for rank in range(2)]
    assert [rank["asked"] for rank in ranks] == [4 * (5 + 5 + 1), 4 * (5 + 5)]
    for rank in ranks:
        assert rank["left"].tolist() == []
        for (side, language), embeddings_ND in expected.items():
            np.testing.assert_array_equal(rank[f"{side}.{language}"], embeddings_ND)
