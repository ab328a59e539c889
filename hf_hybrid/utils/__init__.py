"""General tools: files, JSON, options, text. Knows nothing of retrieval.

* `files`: write a file or folder whole or not at all; hashes; the cache folder
* `strict_json`: read JSON without duplicate keys, NaN or surprises
* `text`: Markdown and tables from values that others chose; the first difference of two texts
* `redaction`: remove secrets and the paths of this machine
* `options`: YAML files, earlier runs and the command line to dataclasses of arguments
* `distributed`: rank, world size and the few collectives
"""
