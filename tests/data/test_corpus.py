"""ParallelCorpus and its builder: what goes in comes out, views share text, and half a corpus is never seen."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hf_hybrid.data import corpus as corpus_module
from hf_hybrid.data import storage
from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.data.storage import Negatives

QUERY, PASSAGE = ParallelCorpus.QUERY, ParallelCorpus.PASSAGE


def build(folder: Path, languages: dict[str, list[str]], **more: Any) -> ParallelCorpus:
    """Items `ids` in each language, each with a text of its own."""
    with CorpusBuilder(folder) as builder:
        for language, ids in languages.items():
            texts = [[f"{side} {i} {language}" for i in ids] for side in ("query", "passage")]
            builder.add_language(language, ids, *texts, **more.get(language, {}))
        return builder.finish()


@pytest.fixture
def corpus(tmp_path: Path) -> ParallelCorpus:
    return build(tmp_path / "corpus", {"en": ["a", "b", "c"], "de": ["c", "a"], "pt-BR": ["d"]})


def large(folder: Path, num_items: int = 200) -> ParallelCorpus:
    ids = [str(i) for i in range(num_items)]
    groups = {"groups": [f"g{i // 3}" for i in range(num_items)]}
    return build(folder, {"en": ids, "de": ids[::2]}, en=groups)


def texts_of(corpus: ParallelCorpus, side: int, language: str) -> dict[str, str]:
    """Item id to text, the long way."""
    column = corpus.rows[:, corpus.languages.index(language), side]
    return {i: corpus.text(side, language, r) for i, r in zip(corpus.item_ids, column, strict=True) if r >= 0}


def test_texts_belong_to_their_items(corpus: ParallelCorpus) -> None:
    assert corpus.languages == ("en", "de", "pt-BR")
    assert list(corpus.item_ids) == ["a", "b", "c", "d"]
    assert texts_of(corpus, QUERY, "de") == {"c": "query c de", "a": "query a de"}
    assert texts_of(corpus, PASSAGE, "en") == {i: f"passage {i} en" for i in "abc"}
    assert corpus.ids_of(np.array([2, 0])) == ["c", "a"] == corpus.item_ids.take([2, 0])
    assert corpus.item_ids[-1] == "d"
    assert corpus.item_ids[1:3] == ["b", "c"]


def test_dtypes_of_the_contract(corpus: ParallelCorpus) -> None:
    assert (corpus.rows.dtype, corpus.rows.shape) == (np.int32, (4, 3, 2))
    assert (corpus.groups.dtype, corpus.relevance.dtype) == (np.int64, np.int32)
    assert corpus.pair_counts().dtype == np.int64
    assert isinstance(corpus.queries("en"), pa.ChunkedArray)
    assert isinstance(corpus.rows, np.memmap)


def test_pair_counts_are_those_of_the_matrix(corpus: ParallelCorpus) -> None:
    assert corpus.pair_counts().tolist() == [[3, 2, 0], [2, 2, 0], [0, 0, 1]]
    assert corpus.num_pairs("en", "de") == 2
    assert corpus.report == {"single_language_items": 2}


def test_pair_counts_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "BATCH_ROWS", 7)
    corpus = large(tmp_path / "corpus")
    assert corpus.pair_counts().tolist() == [[200, 100], [100, 100]]
    assert corpus.select_languages(["de"]).num_items == 100


def test_a_cell_may_have_one_direction(tmp_path: Path) -> None:
    with CorpusBuilder(tmp_path / "corpus") as builder:
        builder.add_language("en", ["1"], ["Who?"], [], passage_rows=[-1])
        builder.add_language("de", ["1"], [], ["Ada."], query_rows=[-1])
        corpus = builder.finish()
    assert (corpus.num_pairs("en", "de"), corpus.num_pairs("de", "en"), corpus.num_pairs("en", "en")) == (1, 0, 0)


def test_groups_join_over_labels_rows_and_equal_texts(tmp_path: Path) -> None:
    ids = [str(i) for i in range(7)]
    with CorpusBuilder(tmp_path / "corpus") as builder:
        # 0-1 by label, 1-2 by row, 3-4 by equal text; 2-3 only in German, by text: 0..4 are one group
        builder.add_language(
            "en", ids, ids, ["p0", "p1", "same", "same", "p5", "p6"],
            passage_rows=[0, 1, 1, 2, 3, 4, 5], groups=["g", "g", None, None, None, None, None],
        )  # fmt: skip
        builder.add_language("de", ["3", "2", "6"], ["x", "y", "z"], ["gleich", "gleich", "anders"])
        corpus = builder.finish()
    assert corpus.groups.tolist() == [0, 0, 0, 0, 0, 5, 6]


def test_groups_join_long_chains(tmp_path: Path) -> None:
    """Union-find on arrays has to follow a path of many links given in a bad order."""
    order = np.random.default_rng(0).permutation(1000)
    links = [np.stack([order[:-1], order[1:]])]
    assert set(storage._groups(1002, links).tolist()) == {0, 1000, 1001}


def test_passage_groups_and_candidates(tmp_path: Path) -> None:
    with CorpusBuilder(tmp_path / "corpus") as builder:
        builder.add_language("en", ["a", "b"], ["1", "2"], ["distractor", "pa", "pb"], passage_rows=[1, 2])
        corpus = builder.finish()
    assert corpus.passage_groups("en").tolist() == [-1, 0, 1]
    assert corpus.candidates("en").tolist() == [0, 1, 2]
    train, held_out = corpus.split(1)
    assert len(train.candidates("en")) == 1
    assert 0 not in train.candidates("en")
    assert len(held_out.candidates("en")) == 2
    assert 0 in held_out.candidates("en")


def test_relevance_of_the_first_language_counts(tmp_path: Path) -> None:
    corpus = build(
        tmp_path / "corpus", {"en": ["a", "b"], "de": ["b", "c"]}, en={"relevance": [2, 1]}, de={"relevance": [3, 3]}
    )
    assert corpus.relevance.tolist() == [2, 1, 3]
    assert corpus.report["relevance_differs"] == 1


def test_negatives_follow_their_items(tmp_path: Path) -> None:
    given = Negatives(np.array([0, 2, 2, 3]), np.array([1, 2, 0]))
    with CorpusBuilder(tmp_path / "corpus") as builder:
        builder.add_language("de", ["c", "b"], ["", ""], ["x", "y"])
        builder.add_language("en", ["a", "b", "c"], ["1", "2", "3"], ["pa", "pb", "pc"], negatives=given)
        corpus = builder.finish()
    assert list(corpus.item_ids) == ["c", "b", "a"]
    negatives = corpus.negatives("en")
    assert negatives is not None
    assert corpus.negatives("de") is None
    assert (negatives.offsets.tolist(), negatives.rows.tolist()) == ([0, 1, 1, 3], [0, 1, 2])


def test_training_does_not_see_held_out_passages_as_negatives(tmp_path: Path) -> None:
    ids = [str(i) for i in range(20)]
    everyone = Negatives(np.arange(21) * 20, np.tile(np.arange(20), 20))
    corpus = build(tmp_path / "corpus", {"en": ids}, en={"negatives": everyone})
    for part in corpus.split(5):
        negatives = part.negatives("en")
        assert negatives is not None
        assert set(negatives.rows.tolist()) == set(part.rows[:, 0, PASSAGE].tolist())
        assert np.diff(negatives.offsets).tolist() == [len(part)] * len(part)


@pytest.mark.parametrize("held_out", [0.25, 50])
def test_split_by_group_is_disjoint_complete_and_deterministic(tmp_path: Path, held_out: float) -> None:
    corpus = large(tmp_path / "corpus")
    train, held = corpus.split(held_out)
    assert set(train.item_ids).isdisjoint(held.item_ids)
    assert len(train) + len(held) == 200
    assert not set(train.groups.tolist()) & set(held.groups.tolist())
    assert 48 <= len(held) <= 50
    assert list(held.item_ids) == list(corpus.split(held_out)[1].item_ids)
    assert list(held.item_ids) != list(corpus.split(held_out, seed=1)[1].item_ids)


def test_split_keeps_items_in_place_when_languages_are_added(tmp_path: Path) -> None:
    ids = [str(i) for i in range(100)]
    one = build(tmp_path / "one", {"en": ids}).split(20)[1]
    two = build(tmp_path / "two", {"de": ids[::-1], "en": ids}).split(20)[1]
    assert set(one.item_ids) == set(two.item_ids)


@pytest.mark.parametrize("held_out", [0, 0.0, 1.0, 4, -1])
def test_split_refuses_an_empty_part(corpus: ParallelCorpus, held_out: float) -> None:
    with pytest.raises(ValueError, match="leave one part empty; give a share between 0 and 1"):
        corpus.split(held_out)


def test_split_never_divides_the_only_group(tmp_path: Path) -> None:
    corpus = build(tmp_path / "corpus", {"en": ["a", "b"]}, en={"groups": ["g", "g"]})
    with pytest.raises(ValueError, match="2 items in 1 groups"):
        corpus.split(1)


def test_select_languages_drops_items_without_text_and_says_so(corpus: ParallelCorpus) -> None:
    view = corpus.select_languages(["de", "en"])
    assert view.languages == ("de", "en")
    assert list(view.item_ids) == ["a", "b", "c"]
    assert view.report["items_without_selected_language"] == 1
    assert texts_of(view, QUERY, "de") == texts_of(corpus, QUERY, "de")
    assert view.pair_counts().tolist() == [[2, 2], [2, 3]]
    assert list(view.select_languages(["de"]).item_ids) == ["a", "c"]


def test_select_languages_names_the_nearest(corpus: ParallelCorpus) -> None:
    with pytest.raises(ValueError, match=r"no language 'pt-br'; it has en, de, pt-BR\. Did you mean 'pt-BR'\?"):
        corpus.select_languages(["pt-br"])
    with pytest.raises(ValueError, match="each language once"):
        corpus.select_languages(["de", "de"])


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    languages = {"en": ["a", "b", "c"], "de": ["c", "a"]}
    first, again = (build(tmp_path / name, languages) for name in ("first", "again"))
    assert first.fingerprint == again.fingerprint
    changes: list[dict[str, Any]] = [
        {"relevance": [1, 2, 1]},
        {"groups": ["g", "g", None]},
        {"passage_rows": [0, 2, 1]},
        {"negatives": Negatives(np.array([0, 1, 1, 1]), np.array([1]))},
    ]
    others = [build(tmp_path / f"other{i}", languages, en=change) for i, change in enumerate(changes)]
    others += [build(tmp_path / "ids", {"en": ["a", "b", "x"], "de": ["c", "a"]})]
    others += [build(tmp_path / "order", dict(reversed(languages.items())))]
    assert len({corpus.fingerprint for corpus in [first, *others]}) == 1 + len(others)


def test_fingerprint_does_not_depend_on_chunks(tmp_path: Path) -> None:
    prints = set()
    for name, chunks in {"one": [["x", "yy", "z"]], "two": [["x"], [], ["yy", "z"]]}.items():
        with CorpusBuilder(tmp_path / name) as builder:
            column = pa.chunked_array(chunks, pa.large_string() if name == "two" else pa.string())
            builder.add_language("en", ["a", "b", "c"], column, column)
            prints.add(builder.finish().fingerprint)
    assert len(prints) == 1


def test_fingerprints_of_views(corpus: ParallelCorpus) -> None:
    views = [corpus, *corpus.split(1), corpus.select_languages(["en", "de"]), corpus.select_languages(["de", "en"])]
    assert len({view.fingerprint for view in views}) == len(views)
    assert {view.base_fingerprint for view in views} == {corpus.fingerprint}
    assert corpus.select_languages(corpus.languages).fingerprint == corpus.fingerprint
    assert corpus.split(1)[0].fingerprint == corpus.split(1)[0].fingerprint


def test_load_maps_what_was_built(corpus: ParallelCorpus, tmp_path: Path) -> None:
    loaded = ParallelCorpus.load(tmp_path / "corpus")
    assert loaded.fingerprint == corpus.fingerprint
    assert repr(loaded) == repr(corpus)


def test_save_of_a_view_keeps_its_content(tmp_path: Path) -> None:
    ids = [str(i) for i in range(20)]
    negatives = Negatives(np.arange(21), np.roll(np.arange(20), 1))
    corpus = build(tmp_path / "corpus", {"en": ids, "de": ids[::2]}, en={"negatives": negatives})
    view = corpus.split(8)[1].select_languages(["de", "en"])
    saved = view.save(tmp_path / "saved")
    assert list(saved.item_ids) == list(view.item_ids)
    assert saved.languages == ("de", "en")
    for language in saved.languages:
        assert texts_of(saved, QUERY, language) == texts_of(view, QUERY, language)
        assert texts_of(saved, PASSAGE, language) == texts_of(view, PASSAGE, language)
        assert len(saved.passages(language)) == len(view.candidates(language))
    old, new = view.negatives("en"), saved.negatives("en")
    assert old is not None
    assert new is not None
    assert len(new.rows) == len(old.rows) > 0
    assert [saved.text(PASSAGE, "en", r) for r in new.rows] == [view.text(PASSAGE, "en", r) for r in old.rows]


def test_save_of_a_view_without_text_in_a_language(corpus: ParallelCorpus, tmp_path: Path) -> None:
    only_d = [part for part in corpus.select_languages(["pt-BR", "en"]).split(1, seed=0) if part.num_items]
    for i, part in enumerate(only_d):
        saved = part.save(tmp_path / f"saved{i}")
        assert (saved.pair_counts() == part.pair_counts()).all()
        assert (saved.save(tmp_path / f"again{i}").pair_counts() == part.pair_counts()).all()
    assert any(0 in np.diag(part.pair_counts()) for part in only_d), "no language was empty: nothing was tested"


def test_save_of_a_whole_corpus_is_the_same_corpus(corpus: ParallelCorpus, tmp_path: Path) -> None:
    assert corpus.save(tmp_path / "copy").fingerprint == corpus.fingerprint


def test_row_ids_where_the_source_has_them(tmp_path: Path) -> None:
    corpus = build(tmp_path / "corpus", {"en": ["q/d"]}, en={"query_ids": ["q"], "passage_ids": ["d"]})
    ids = corpus.row_ids(PASSAGE, "en")
    assert ids is not None
    assert ids.to_pylist() == ["d"]
    assert build(tmp_path / "other", {"en": ["a"]}).row_ids(QUERY, "en") is None


def test_pickles_as_its_folder(corpus: ParallelCorpus) -> None:
    view = corpus.split(1)[0]
    view.groups, view.queries("en")  # what was mapped before does not travel
    data = pickle.dumps(view)
    assert len(data) < 5_000
    assert pickle.loads(data).fingerprint == view.fingerprint


BAD: dict[str, tuple[Callable[[CorpusBuilder], None], str]] = {
    "twice": (lambda b: [b.add_language("de", ["1"], ["q"], ["p"]) for _ in "ab"], "'de': give each once"),  # type: ignore
    "a path": (lambda b: b.add_language("../de", ["1"], ["q"], ["p"]), "letters, digits and hyphens"),
    "empty": (lambda b: b.add_language("de", [], [], []), "'de' has no items"),
    "same id": (lambda b: b.add_language("de", ["1", "1"], ["a", "b"], ["c", "d"]), "item id '1' occurs twice"),
    "row": (lambda b: b.add_language("de", ["1"], ["q"], ["p"], passage_rows=[1]), r"-1 \(none\) to 0"),
    "nothing": (lambda b: None, "no language was added"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_builder_refuses_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    add, message = BAD[case]

    def make() -> None:
        with CorpusBuilder(tmp_path / "corpus") as builder:
            add(builder)
            builder.finish()

    with pytest.raises(ValueError, match=message):
        make()
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_is_seen_only_when_it_is_complete(tmp_path: Path) -> None:
    with CorpusBuilder(tmp_path / "corpus") as builder:
        builder.add_language("en", ["1"], ["q"], ["p"])
        assert not (tmp_path / "corpus").exists()
        builder.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert not list((tmp_path / "corpus").glob("*.part.npz"))


def test_a_newer_corpus_replaces_the_old_one(tmp_path: Path) -> None:
    old = build(tmp_path / "corpus", {"en": ["a"]})
    new = build(tmp_path / "corpus", {"en": ["a", "b"]})
    assert len(new) == 2
    assert ParallelCorpus.load(tmp_path / "corpus").fingerprint != old.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_folder_with_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="is not a built corpus"):
        CorpusBuilder(tmp_path)


def _build_many(folder: str) -> str:
    return build(Path(folder), {"en": [str(i) for i in range(50)]}).fingerprint


def test_several_processes_may_build_the_same(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        prints = pool.map(_build_many, [str(tmp_path / "corpus")] * 16)
    assert len(set(prints)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_load_refuses_what_is_no_corpus_or_of_another_format(corpus: ParallelCorpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no corpus\.json"):
        ParallelCorpus.load(tmp_path)
    manifest = tmp_path / "corpus" / "corpus.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="format 99, this version reads 1"):
        ParallelCorpus.load(tmp_path / "corpus")
