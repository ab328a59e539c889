"""From a corpus to the plan of a run, and from a step of the plan to packed tokens.

* `mix`: shares of the batch types
* `language_pairs`: which language pairs a corpus can fill, and which items each has
* `schedule`: `HybridSchedule`: the plan, and the items of any batch of it
* `token_cache`: each text tokenized once, on disk
* `packing`: texts without padding, in chunks of a token budget
* `collator`: a batch of the plan as packed tokens, with its positives and masks
* `mlm_schedule`: the same for masked language modeling: blocks of text in many languages
* `mlm_collator`: blocks as tokens, with the tokens to predict
"""
