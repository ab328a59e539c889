"""What both sides of `train_throughput.py` train on: a model, a corpus with a plan, and its pairs for the peer."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from throughput_peer import write_pairs
from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

from hf_hybrid.data.batches.schedule import HybridSchedule
from hf_hybrid.data.batches.token_cache import TokenCache
from hf_hybrid.data.sides import PASSAGE, QUERY
from hf_hybrid.data.sources.load import load_corpus

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")  # in the models' configurations
OTHER_DROPOUT = ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout")
SIZES = {
    "tiny": {"vocab_size": 2000, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "xlmr-base": {"vocab_size": 250_002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "xlmr-large": {"vocab_size": 250_002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}
SPECIAL_TOKENS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclasses.dataclass(frozen=True)
class Job:
    """One side of a comparison; what is not about one side is the same for both."""

    side: str
    model: str
    corpus: str
    pairs: str
    cache: str
    batch_size: int
    device: str
    precision: str
    threads: int
    steps: int
    warmup_steps: int
    query_prompt: str
    passage_prompt: str
    max_query_length: int
    max_passage_length: int
    mix: str
    temperature: float
    seed: int
    workers: int
    chunk_tokens: int | None
    peer_mini_batch: int | None
    torch_compile: bool
    seen_embeddings_only: bool
    first_step_only: bool = False

    @property
    def all_steps(self) -> int:
        """Length of the plan."""
        return self.warmup_steps + self.steps


def prepare(args: argparse.Namespace, batch_size: int, folder: Path) -> tuple[Job, dict[str, Any]]:
    """The job of our side for a batch size, and what a row says of its input."""
    all_steps = args.warmup_steps + args.steps
    source, corpus_folder = args.model, args.corpus
    if args.lengths:
        source, corpus_folder = folder / "random", folder / f"texts-{batch_size}"
        if not source.exists():
            save_random_model(source, args.size, args.seed)
        expected_tokens = write_texts(corpus_folder, args, batch_size * all_steps)
    mix = args.mix or ("mono=1" if args.lengths else "mono=0.5,cross=0.5")
    attention = {} if args.attention_dropout is None else dict.fromkeys(ATTENTION_DROPOUT, args.attention_dropout)
    fields = {name: value for name, value in vars(args).items() if name in Job.__dataclass_fields__}
    job = Job(
        **fields
        | {
            "side": "ours",
            "mix": mix,
            "model": str(variant(source, folder / "model", attention)),
            "corpus": str(corpus_folder),
            "pairs": str(folder / f"pairs-{batch_size}"),
            "cache": str(folder / "cache"),
            "batch_size": batch_size,
        }
    )
    variant(source, Path(without_dropout(job).model), dict.fromkeys((*ATTENTION_DROPOUT, *OTHER_DROPOUT), 0.0))
    tokenizing = write_plan(job)
    if args.lengths:
        assert tokenizing["tokens"] == expected_tokens, f"{tokenizing['tokens']} tokens, {expected_tokens} were meant"
    return job, {
        "model": args.size if args.lengths else args.model.name,
        "corpus": (args.lengths or args.corpus).name,
        "attention_dropout": args.attention_dropout,
        "tokenizing": tokenizing,
    }


def without_dropout(job: Job) -> Job:
    """The first step alone, of the same model without dropout."""
    return dataclasses.replace(job, model=f"{job.model}-without-dropout", first_step_only=True)


def variant(source: Path, folder: Path, changes: Mapping[str, float]) -> Path:
    """A model folder of links to another's files; what its configuration has of `changes` is changed."""
    if not folder.exists():
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).symlink_to(path.resolve())
        config = json.loads((source / "config.json").read_text())
        config |= {name: value for name, value in changes.items() if name in config}
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_random_model(folder: Path, size: str, seed: int) -> None:
    """An XLM-RoBERTa of random weights with a tokenizer of made-up words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    shape = SIZES[size]
    config = XLMRobertaConfig(
        **shape,
        intermediate_size=4 * shape["hidden_size"],
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    torch.manual_seed(seed)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    words = [*SPECIAL_TOKENS.values(), "query:", "passage:"]
    words += [f"w{number}" for number in range(len(words), shape["vocab_size"])]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {**SPECIAL_TOKENS, "cls_token": "<s>", "sep_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names).save_pretrained(folder)


def write_texts(folder: Path, args: argparse.Namespace, num_items: int) -> int:
    """A corpus of one language whose texts have just the lengths of the file; gives the number of its tokens."""
    generator = np.random.default_rng(args.seed)
    lengths = generator.permutation(np.array(json.loads(args.lengths.read_text())))
    lengths_N2 = lengths[np.arange(num_items) % len(lengths)]
    prompts = np.array([len(prompt.split()) for prompt in (args.query_prompt, args.passage_prompt)])
    counts = (lengths_N2 - prompts - 2).ravel()
    if counts.min() < 1:
        sys.exit(f"{args.lengths}: a length leaves no room for a word beside prompt and special tokens.")
    first_word = len(SPECIAL_TOKENS) + 2
    numbers = generator.integers(first_word, SIZES[args.size]["vocab_size"], counts.sum())
    texts = [" ".join(f"w{number}" for number in part) for part in np.split(numbers, np.cumsum(counts)[:-1])]
    folder.mkdir()
    with (folder / "en.jsonl").open("w") as file:
        for item, (query, passage) in enumerate(zip(texts[::2], texts[1::2], strict=True)):
            file.write(json.dumps({"id": str(item), "query": query, "passage": passage}) + "\n")
    return int(lengths_N2.sum())


def write_plan(job: Job) -> dict[str, Any]:
    """Fill our token cache, and write the pairs of the plan for the peer; what tokenizing took."""
    corpus = load_corpus(job.corpus, cache_dir=job.cache)
    schedule = HybridSchedule(
        corpus, job.mix, global_batch_size=job.batch_size, num_steps=job.all_steps, seed=job.seed
    )
    cache = TokenCache(
        corpus,
        AutoTokenizer.from_pretrained(job.model),
        query_prompt=job.query_prompt,
        passage_prompt=job.passage_prompt,
        max_query_length=job.max_query_length,
        max_passage_length=job.max_passage_length,
        cache_dir=Path(job.cache) / "tokens",
    )
    start = time.perf_counter()
    counts = cache.build()
    tokenizing = {"time_s": time.perf_counter() - start, "texts": counts["texts"], "tokens": counts["tokens"]}
    if job.max_query_length < job.max_passage_length and counts["queries_truncated_texts"]:
        sys.exit(
            f"{counts['queries_truncated_texts']} queries are longer than --max_query_length={job.max_query_length}, "
            "and the peer has one bound for both sides. Set it to --max_passage_length."
        )
    write_pairs(Path(job.pairs), [texts_of(schedule, step) for step in range(job.all_steps)])
    return tokenizing


def texts_of(schedule: HybridSchedule, step: int) -> tuple[list[str], list[str]]:
    """Queries and passages of a batch, without prompts."""
    batch, corpus = schedule.batch(step), schedule.corpus
    if batch.batch_type == "pool":
        sys.exit("--mix: a pool batch has several passages for a query, for which the peer has no loss.")
    sides = ((QUERY, batch.query_languages), (PASSAGE, batch.positive_languages))
    queries, passages = (
        [
            corpus.text(side, corpus.languages[language], int(corpus.rows[item, language, side]))
            for item, language in zip(batch.items, languages, strict=True)
        ]
        for side, languages in sides
    )
    return queries, passages
