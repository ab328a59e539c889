"""Encode once, then rank passages for queries.

* `embeddings`: embeddings of a corpus, made once and kept on disk
* `search`: exact search in blocks, in bounded memory
* `faiss`: approximate search with FAISS
* `bm25`: BM25, without a model
"""
