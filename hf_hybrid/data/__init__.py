"""From files and data sets to a parallel corpus, a plan and packed batches.

* `sides`: query and passage
* `languages`: BCP-47 codes and how folders name languages
* `storage`: the Arrow files of a built corpus
* `corpus`: `ParallelCorpus`: aligned items in many languages, on disk
* `sources`: readers of every input format, presets of the Hub, the built-in sample
* `batches`: from a corpus to the plan of a run and its batches
"""
