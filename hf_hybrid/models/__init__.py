"""The encoder: backbone, attention over packed texts, pooling, loading and saving.

* `attention`: attention over packed texts, on GPU and CPU
* `dropout`: dropout that costs little on a CPU
* `pooling`: from the states of a text's tokens to one vector
* `from_scratch`: a small encoder and its tokenizer from a corpus
* `folder`: the model folder: sentence-transformers modules, read and written
* `encoder`: `HybridEncoder`: from tokens to embeddings
* `masked_lm`: the encoder with a head for masked language modeling
* `seen_embeddings`: train only the embedding rows that the corpus has
* `flops`: operations of a training step
* `fingerprint`: the name of a model by its content
"""
