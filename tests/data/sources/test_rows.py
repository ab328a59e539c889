"""What is written is read, in whatever form; what befell a line is named by its number: Hypothesis looks for more."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.sources.beir import from_beir
from hf_hybrid.data.sources.jsonl import from_jsonl
from hf_hybrid.data.sources.load import load_corpus
from tests.data.sources.test_load import PASSAGE, QUERY, negatives_of, texts_of
from tests.support.fuzz_readers import corpus_targets
from tests.support.fuzzing import Files, changed, write_files

every = settings(max_examples=60, deadline=None, derandomize=True)
Row = dict[str, Any]

# Characters that are easily taken for the end of a line or a column, and all others that a text may have.
_CHARACTERS = st.sampled_from('\u2028\x85\x1c\r\n\t "\\') | st.characters(
    exclude_categories=["Cs"], exclude_characters="\0"
)
_VISIBLE = st.characters(categories=["L", "N", "P", "S"])
TEXTS = st.builds("".join, st.tuples(st.text(_CHARACTERS), _VISIBLE, st.text(_CHARACTERS)))


def names(excluded: str = "") -> st.SearchStrategy[str]:
    """Ids: they begin and end with something that can be seen."""
    ends = _VISIBLE.filter(lambda character: character not in excluded)
    middle = st.text(_CHARACTERS.filter(lambda character: character not in excluded), max_size=5)
    return ends | st.builds("".join, st.tuples(ends, middle, ends))


@contextmanager
def written(files: Files) -> Iterator[tuple[Path, Path]]:
    """A folder with these files, and one for the cache."""
    with tempfile.TemporaryDirectory() as place:
        write_files(Path(place, "given"), files)
        yield Path(place, "given"), Path(place, "cache")


@st.composite
def json_lines(draw: st.DrawFn, rows: Sequence[Row]) -> bytes:
    """The rows in one of the forms that mean the same: order of keys, escapes, space, blank lines, ends of lines."""
    lines = []
    for row in rows:
        keys = draw(st.permutations([*row, "a column of no use"]))
        separators = draw(st.sampled_from([(",", ":"), (" ,\t", " : ")]))
        shuffled = {key: row.get(key) for key in keys}
        lines.append(json.dumps(shuffled, ensure_ascii=draw(st.booleans()), separators=separators))
        lines += draw(st.sampled_from([[], ["", "  "]]))
    mark, end = draw(st.sampled_from(["", "\ufeff"])), draw(st.sampled_from(["\n", "\r\n"]))
    return (mark + end.join(lines) + draw(st.sampled_from(["", end]))).encode()


# JSONL


@st.composite
def items(draw: st.DrawFn) -> dict[str, list[Row]]:
    """Rows of up to three languages, each with some of the items."""
    ids = draw(st.lists(names() | st.integers(), min_size=1, max_size=5, unique_by=str))
    absent, labels = st.sampled_from([None, ""]), st.sampled_from(["a", "b", 1, "1"])
    few = TEXTS | st.sampled_from(["Ada.", "Zuse."])  # passages that repeat
    rows: dict[str, list[Row]] = {}
    for language in draw(st.lists(st.sampled_from(["de", "pt-BR", "zh"]), min_size=1, unique=True)):
        rows[language] = [
            {
                "id": item_id,
                "query": f"{language}: {draw(TEXTS)}",
                "passage": draw(few),
                "title": draw(absent | TEXTS),
                "group": draw(absent | labels),
            }
            for item_id in draw(st.lists(st.sampled_from(ids), min_size=1, unique_by=str))
        ]
    return rows


def passage(row: Row) -> str:
    return f"{row['title']} {row['passage']}" if row["title"] else row["passage"]


def expected_groups(rows: dict[str, list[Row]], ids: list[str]) -> set[frozenset[str]]:
    """Items that share a label, or a passage of a language, directly or through others."""
    shared: dict[Any, set[str]] = {}
    for language, own in rows.items():
        for row in own:
            for mark in [(language, passage(row)), *([str(row["group"])] if row["group"] not in (None, "") else [])]:
                shared.setdefault(mark, set()).add(str(row["id"]))
    groups = [{item_id} for item_id in ids]
    for joined in shared.values():
        apart = [group for group in groups if not group & joined]
        groups = [*apart, joined.union(*(group for group in groups if group & joined))]
    return {frozenset(group) for group in groups}


@pytest.mark.slow
@every
@given(items(), st.data())
def test_items_are_read_as_they_were_written_in_any_form(rows: dict[str, list[Row]], data: st.DataObject) -> None:
    prints = set()
    for _ in range(2):
        order = data.draw(st.permutations(sorted(rows)))
        files = {f"{language}.jsonl": data.draw(json_lines(rows[language])) for language in order}
        with written(files) as (folder, cache):
            corpus = from_jsonl(folder, cache_dir=cache)
            prints.add(corpus.fingerprint)
            assert corpus.languages == tuple(sorted(rows))
            ids = list(dict.fromkeys(str(row["id"]) for language in sorted(rows) for row in rows[language]))
            assert list(corpus.item_ids) == ids
            for language, own in rows.items():
                assert texts_of(corpus, QUERY, language) == {str(row["id"]): row["query"] for row in own}
                assert texts_of(corpus, PASSAGE, language) == {str(row["id"]): passage(row) for row in own}
            groups = corpus.groups.tolist()
            found = [[i for i, other in zip(ids, groups, strict=True) if other == group] for group in set(groups)]
            assert {frozenset(group) for group in found} == expected_groups(rows, ids)
    assert len(prints) == 1
    language = data.draw(st.sampled_from(sorted(rows)))
    rows[language][0][data.draw(st.sampled_from(["query", "passage"]))] += "!"
    with written({f"{name}.jsonl": data.draw(json_lines(own)) for name, own in rows.items()}) as (folder, cache):
        assert from_jsonl(folder, cache_dir=cache).fingerprint not in prints


# BEIR


class Beir:
    """A retrieval set in one language or two, which have the same ids."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.languages = ["de", "en"][: draw(st.integers(1, 2))]
        ids = st.lists(names(excluded="\t\n\r"), min_size=1, max_size=4, unique=True)
        self.queries = {name: draw(TEXTS) for name in draw(ids)}
        titles = st.sampled_from([None, ""]) | TEXTS
        self.documents = {name: (draw(titles), draw(TEXTS)) for name in draw(ids)}
        pairs = st.tuples(st.sampled_from(sorted(self.queries)), st.sampled_from(sorted(self.documents)))
        self.scores = draw(st.dictionaries(pairs, st.integers(-1, 3), min_size=1))
        self.positive = [pair for pair, score in self.scores.items() if score > 0]
        assume(len({"/".join(pair) for pair in self.positive}) == len(self.positive) > 0)

    def check(self, corpus: ParallelCorpus) -> None:
        """Compare with what was read."""
        assert list(corpus.item_ids) == ["/".join(pair) for pair in self.positive]
        assert corpus.relevance.tolist() == [self.scores[pair] for pair in self.positive]
        for language in self.languages:
            texts = {i: " ".join(filter(None, (t, f"{x} {language}"))) for i, (t, x) in self.documents.items()}
            assert corpus.passages(language).to_pylist() == list(texts.values())
            by_item = {"/".join(pair): pair for pair in self.positive}
            passages = {item: texts[document] for item, (_, document) in by_item.items()}
            queries = {item: f"{self.queries[query]} {language}" for item, (query, _) in by_item.items()}
            assert texts_of(corpus, PASSAGE, language) == passages
            assert texts_of(corpus, QUERY, language) == queries
            ids = [corpus.row_ids(kind, language) for kind in (QUERY, PASSAGE)]
            asked = [query for query in self.queries if any(query == pair[0] for pair in self.positive)]
            assert [column.to_pylist() for column in ids if column] == [asked, list(self.documents)]
            wrong = {
                item: [
                    texts[document] for (other, document), score in self.scores.items() if other == query and score < 1
                ]
                for item, (query, _) in by_item.items()
            }
            if min(self.scores.values()) < 1:
                assert negatives_of(corpus, language) == wrong
            else:
                assert corpus.negatives(language) is None


@st.composite
def beir_files(draw: st.DrawFn, beir: Beir) -> Files:
    """The set in one of the forms that mean the same."""
    found: Files = {}
    for language in beir.languages:
        documents = [{"_id": i, "title": t, "text": f"{x} {language}"} for i, (t, x) in beir.documents.items()]
        queries = [{"_id": i, "text": f"{x} {language}"} for i, x in beir.queries.items()]
        found[f"{language}/corpus.jsonl"] = draw(json_lines(documents))
        found[f"{language}/queries.jsonl"] = draw(json_lines(queries))
        columns = draw(st.permutations(["query-id", "corpus-id", "score", "iteration"]))
        end = draw(st.sampled_from(["\n", "\r\n"]))
        lines = ["\t".join(columns)]
        for (query, document), score in beir.scores.items():
            text = draw(st.sampled_from([str(score), f"{score}.0"]))
            values = {"query-id": query, "corpus-id": document, "score": text, "iteration": "0"}
            lines += ["\t".join(values[column] for column in columns)]
        found[f"{language}/qrels/test.tsv"] = end.join([*lines, ""]).encode()
    return found


@pytest.mark.slow
@every
@given(st.composite(Beir)(), st.data())
def test_a_retrieval_set_is_read_as_it_was_written_in_any_form(beir: Beir, data: st.DataObject) -> None:
    prints = set()
    for _ in range(2):
        with written(data.draw(beir_files(beir))) as (folder, cache):
            corpus = from_beir(folder, cache_dir=cache)
            beir.check(corpus)
            prints.add(corpus.fingerprint)
    assert len(prints) == 1


# What befell a line


def load(corpus_format: str, files: Files, on_bad_row: str) -> str | tuple[str, int]:
    """The fingerprint, or the file and the line that are refused, 0 for none."""
    with written(files) as (folder, cache):
        try:
            return load_corpus(folder, corpus_format, on_bad_row=on_bad_row, cache_dir=cache).fingerprint
        except ValueError as error:
            named = re.match(rf"{re.escape(str(folder))}/(\S+?)(?:, line (\d+))?(?:: | has | and )", str(error))
            if not named:
                raise AssertionError("names no file") from error
            return named[1], int(named[2] or 0)


@pytest.mark.slow
@pytest.mark.parametrize("corpus_format", ["jsonl", "beir", "pairs"])
@every
@given(data=st.data())
def test_a_changed_line_is_read_or_named_and_skipped_as_if_it_were_not_there(
    corpus_format: str, data: st.DataObject
) -> None:
    files = corpus_targets()[corpus_format].files
    name = data.draw(st.sampled_from(sorted(files)))
    lines = files[name].splitlines(keepends=True)
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place] = data.draw(changed(lines[place]))
    files = {**files, name: b"".join(lines)}
    skipped = load(corpus_format, files, "skip")
    for _ in range(10):
        refused = load(corpus_format, files, "refuse")
        if isinstance(refused, str) or not refused[1]:
            break
        bad = files[refused[0]].split(b"\n")
        bad[refused[1] - 1] = b""
        files = {**files, refused[0]: b"\n".join(bad)}
    if isinstance(refused, tuple):  # the whole file, whatever else was wrong with it
        refused, skipped = refused[0], skipped[0]
    assert refused == skipped
