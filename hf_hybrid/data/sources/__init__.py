"""Every input format, one door: `load.load_corpus`.

* `rows`: read and check rows of JSONL, TSV and `datasets`; count or refuse bad ones
* `tables`: XQuAD-R and joined tables of queries, passages and judgments
* `formats`: folders: a file for each language, bilingual pairs, BEIR
* `presets`: data sets of the Hub by a short name
* `sample`: the built-in sample corpus, made from Unicode CLDR facts
* `load`: `load_corpus`: recognize the format, read it, build the corpus
"""
