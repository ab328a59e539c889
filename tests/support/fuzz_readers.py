"""Fuzzes every reader with changed files, for a bounded time: see `tests/support/fuzzing.py`.

    python tests/support/fuzz_readers.py --seconds 60 --seed 1 --target jsonl --target beir

A finding is printed with the bytes that make it, and saved with all files and the traceback. Arrow, NumPy and Parquet
files are not here: this project alone writes them, and they are mapped, not parsed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.fuzzing import Files, Target, fuzz

QRELS = b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td2\t2\n"


def _lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _load(corpus_format: str, **options: Any) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from hf_hybrid.data.sources.load import load_corpus

        for on_bad_row in ("skip", "refuse"):
            given = {name: folder / value for name, value in options.items()}
            corpus = load_corpus(folder, corpus_format, None, on_bad_row, folder.with_name("cache"), **given)
            corpus.pair_counts(), corpus.item_ids[:], corpus.groups
        return corpus

    return read


def _trec(function: str, name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from hf_hybrid.metrics.beir_cross_lingual import trec

        return getattr(trec, function)(folder / name)

    return read


def _records(folder: Path) -> None:
    from hf_hybrid.records.run_folder import RunFolder

    run = RunFolder(folder)
    run.read_resource_lines()
    run.keep_resource_lines(1)
    run.read_run(), run.read_resources(), run.read_eval()


def _config(folder: Path) -> None:
    from hf_hybrid.training.arguments import DataArguments, HybridTrainingArguments, ModelArguments
    from hf_hybrid.utils.options import parse_arguments

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            command = ["--config", str(folder / "config.yaml"), "--use_cpu", "true"]
            parse_arguments([ModelArguments, DataArguments, HybridTrainingArguments], command)
    except SystemExit as stop:
        if stop.code == 2 and "error: " in errors.getvalue():  # which names the option, and the file if it is at fault
            raise ValueError(f"{folder}: {errors.getvalue()}") from None
        raise AssertionError(f"exit {stop.code} with {errors.getvalue()!r}") from stop


def _layout(folder: Path) -> object:
    from hf_hybrid.models.folder import read_layout

    return read_layout(str(folder))


def _weights(folder: Path) -> object:
    from hf_hybrid.models.folder import read_weights

    return read_weights(folder)


def _built(folder: Path) -> object:
    from hf_hybrid.data.corpus import ParallelCorpus

    corpus = ParallelCorpus.load(folder)
    return corpus.report, corpus.source, corpus.fingerprint


@cache
def targets() -> dict[str, Target]:
    """Every reader by name."""
    model, weights = _model_folder(), ("a.safetensors", "b.safetensors", "model.safetensors.index.json")
    config = b"learning_rate: 2e-5\nmax_steps: 7\nmix: 'mono=1,pool=2'\nbf16: false\nlanguages: [de, en]\n"
    config += b"temperature: 0.02\nseed: 1\ncells: 'de->*'\nheld_out: 0.1\n"
    return {
        **corpus_targets(),
        "run": Target({"run": b"q1 Q0 d1 1 0.5 t\nq1 Q0 d2 2 -1e3 t\nq2 Q0 d2 1 7 t\n"}, _trec("read_run", "run")),
        "qrels": Target({"qrels": b"q1 0 d1 1\nq1 0 d2 0\nq2 0 d2 2\n"}, _trec("read_qrels", "qrels")),
        "beir_qrels": Target({"qrels/test.tsv": QRELS}, _trec("read_beir_qrels", "")),
        "languages": Target({"languages": b"d1\tde\nd2\ten\n"}, _trec("read_languages", "languages")),
        "config": Target({"config.yaml": config}, _config),
        "records": Target(_run_folder(), _records),
        "layout": Target({name: content for name, content in model.items() if name not in weights}, _layout),
        "weights": Target({name: model[name] for name in weights}, _weights),
        "built": Target(_built_corpus(), _built),
    }


def corpus_targets() -> dict[str, Target]:
    """The formats that `load_corpus` reads."""
    items: list[dict[str, Any]] = [
        {"id": "1", "query": "Wer?", "passage": "Ada.", "title": "T", "group": "g", "negatives": ["2", "Nein."]},
        {"id": 2, "query": "Was?", "passage": "Ada.", "title": None},
    ]
    english = [{**item, "query": "Who?"} for item in items]
    documents = [{"_id": "d1", "title": "T", "text": "Ada."}, {"_id": "d2", "title": "", "text": "Zuse."}]
    queries: list[dict[str, Any]] = [{"_id": "q1", "text": "Wer?"}, {"_id": "q2", "text": "Was?"}]
    beir = {"corpus.jsonl": _lines(*documents), "queries.jsonl": _lines(*queries), "qrels/test.tsv": QRELS}
    marked = {
        "corpus.jsonl": _lines(*({**row, "language": "de"} for row in documents)),
        "queries.jsonl": _lines({**queries[0], "language": "en"}, {**queries[1], "language": "de"}),
    }
    mapped = {"queries.tsv": b"id\tlanguage\nq1\ten\nq2\tde\n", "documents.json": b'{"d1": "en", "d2": "de"}'}
    questions = [{"id": str(i), "question": f"{i}?", "answers": [{"text": "x", "answer_start": i}]} for i in (0, 9)]
    paragraph = {
        "context": "x",
        "sentence_breaks": [[0, 5], [6, 14]],
        "sentences": ["Ada.", "Zuse."],
        "qas": questions,
    }
    squad = {"version": "1.1", "data": [{"title": "t", "paragraphs": [paragraph]}]}
    pair = b"id\tquery\tpassage\n1\tWer?\tAda.\n2\tWas?\tZuse.\n"
    return {
        "jsonl": Target({"de.jsonl": _lines(*items), "en.jsonl": _lines(*english)}, _load("jsonl")),
        "pairs": Target({"en-de.tsv": pair, "de-en.jsonl": _lines(*items)}, _load("pairs")),
        "beir": Target({f"de/{name}": content for name, content in beir.items()}, _load("beir")),
        "beir_mixed": Target({**beir, **marked}, _load("beir")),
        "beir_mapped": Target(
            {**beir, **mapped}, _load("beir", document_languages="documents.json", query_languages="queries.tsv")
        ),
        "xquad_r": Target({"de.json": json.dumps(squad).encode()}, _load("xquad_r")),
    }


def _read_back(write: Callable[[Path], object], suffixes: Sequence[str]) -> Files:
    """The files of a folder that `write` makes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "folder")
        write(folder)
        paths = [path for path in folder.rglob("*") if path.suffix in suffixes]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _run_folder() -> Files:
    from hf_hybrid.records.run_folder import RunFolder
    from tests.records.test_run_folder import make_line, make_resources, make_run

    def write(path: Path) -> None:
        run = RunFolder(path)
        run.write_run(make_run())
        run.write_resources(make_resources())
        run.write_eval({"before": None, "after": None, "evaluated": {}})
        for step in (1, 2):
            run.append_resource_line(make_line(step))

    return _read_back(write, [".json", ".jsonl"])


def _model_folder() -> Files:
    import torch
    from safetensors.torch import save_file

    from hf_hybrid.models.folder import write_layout

    def write(path: Path) -> None:
        path.mkdir()
        dense = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
        write_layout(
            path, pooling="cls", hidden_size=2, normalize=True, max_length=8, query_prompt="q: ", projection=dense
        )
        for part in ("a", "b"):
            save_file({part: torch.zeros(2)}, path / f"{part}.safetensors")
        index = {"metadata": {}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))

    return _read_back(write, [".json", ".safetensors"])


def _built_corpus() -> Files:
    from hf_hybrid.data.corpus import CorpusBuilder

    def write(path: Path) -> None:
        with CorpusBuilder(path, {"format": "jsonl"}) as builder:
            for language in ("de", "en"):
                builder.add_language(language, ["1", "2"], ["Wer?", "Was?"], ["Ada.", "Zuse."])
            builder.write()

    return _read_back(write, [".json"])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Changed files for every reader.")
    parser.add_argument("--seconds", type=float, default=60, help="Time for all targets together.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", choices=list(targets()), help="All by default.")
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"), help="Where findings are saved.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Try the targets; the exit code is 1 where there is a finding."""
    arguments = _parse(argv)
    names, code = arguments.target or list(targets()), 0
    for name in names:
        counts, findings = fuzz(name, targets()[name], arguments.seconds / len(names), arguments.seed)
        print(f"{name}: {counts['read']} read, {counts['refused']} refused, {len(findings)} findings", flush=True)
        for finding in findings:
            print(finding, f"  saved in {finding.save(arguments.findings)}", sep="\n", flush=True)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
