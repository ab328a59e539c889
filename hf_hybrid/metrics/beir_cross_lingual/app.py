"""The Space of the metric: a run and judgments go in as files, a table comes out."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr

FOLDER = Path(__file__).parent
POLICIES = ["hf_hybrid", "beir", "mteb", "trec_eval", "sentence-transformers"]

metric = evaluate.load(str(FOLDER / "beir_cross_lingual.py"))


def score(
    run: str, qrels: str, query_languages: str | None, doc_languages: str | None, depths: str, policy: str
) -> tuple[list[list[Any]], dict[str, Any]]:
    """The scores of uploaded files: settings as rows of a table, and everything."""
    if not run or not qrels:
        raise gr.Error("Give a run and judgments.")
    try:
        found = metric.compute(
            **metric.from_trec(run, qrels),
            query_languages=metric.languages_from(query_languages) if query_languages else None,
            doc_languages=metric.languages_from(doc_languages) if doc_languages else None,
            k_values=[int(top_k) for top_k in depths.replace(",", " ").split()],
            policy=policy,
        )
    except ValueError as error:
        raise gr.Error(html.escape(str(error))) from error  # names from the files, in what is shown as HTML
    rows = {**found, **{f"bias/{name}": value for name, value in found.get("bias", {}).items()}}
    return [[name, value] for name, value in rows.items() if not isinstance(value, dict)], found


demo = gr.Interface(
    score,
    inputs=[
        gr.File(label="Run: query Q0 document rank score tag"),
        gr.File(label="Judgments: query 0 document relevance"),
        gr.File(label="Languages of queries: id, tab, language (optional)"),
        gr.File(label="Languages of documents: id, tab, language (optional)"),
        gr.Textbox("10, 100", label="Depths k"),
        gr.Dropdown(POLICIES, value="hf_hybrid", label="Policy"),
    ],
    outputs=[gr.Dataframe(headers=["measure", "value"], label="Scores"), gr.JSON(label="Everything")],
    title="BEIR by language",
    description=metric.description,
    article=(FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2],
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
