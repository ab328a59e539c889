"""Arguments, losses, trainers, checkpoints, and one run from start to end.

* `arguments`: dataclasses of the options of a run, contrastive or masked language modeling
* `gather`: embeddings of all ranks, with gradients
* `losses`: the contrastive loss of a global batch
* `gradcache`: large batches in chunks, with the same gradients
* `finite_guard`: skip and record steps that are not finite
* `chunking`: chunk sizes, and smaller chunks when memory runs out
* `interruption`: signals, heartbeat, one process for each folder
* `checkpoints`: complete checkpoints, rotation, damaged ones
* `resume`: resume exactly where a run stopped
* `hub_push`: push during and after training
* `communication`: bytes that DDP, FSDP2 and DeepSpeed send, by formula
* `meters`: time, peak memory and energy
* `resource_log`: `resources.jsonl` and `resources.json`
* `identity`: what makes two runs the same run
* `trainer`: `HybridTrainer`
* `mlm_trainer`: `MlmTrainer`
* `run`: `run_training`: evaluate, train, evaluate, write, publish
"""
