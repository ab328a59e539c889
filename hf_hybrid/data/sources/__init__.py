"""Every input format, one door: `load.load_corpus`. A new format is one file and one row of its table.

* `rows`: read and check rows of JSONL, TSV and `datasets`; count or refuse bad ones
* `items`: a query, a passage or both under one id become a language of a corpus
* `judgments`: queries and documents apart, joined by judgments, become a language of a corpus
* `build`: build a corpus once in the cache
* `jsonl`: a file for each language
* `pairs`: bilingual pair files
* `beir`: BEIR folders
* `xquad_r`: LAReQA's XQuAD-R
* `datasets`: a `datasets.Dataset` or one for each language
* `presets`: data sets of the Hub by a short name
* `sample`: the built-in sample corpus, made from Unicode CLDR facts
* `load`: `load_corpus`: recognize the format and read it
"""
