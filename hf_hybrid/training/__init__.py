"""Arguments, losses, trainers, checkpoints, and one run from start to end.

* `arguments`: dataclasses of the options of a run, contrastive or masked language modeling
* `gather`: embeddings of all ranks, with gradients
* `losses`: the contrastive loss of a global batch
* `gradcache`: large batches in chunks, with the same gradients
* `finite_guard`: skip and record steps that are not finite
* `chunking`: the gradient of a batch in chunks, smaller ones when memory runs out
* `interruption`: signals, heartbeat, one process for each folder
* `checkpoints`: complete checkpoints, rotation, damaged ones
* `resume`: the checkpoint that a run resumes from, and its state
* `hub_push`: push during and after training
* `communication`: bytes that DDP, FSDP2 and DeepSpeed send, by formula
* `meters`: time, peak memory and energy
* `resource_log`: `resources.jsonl` and `resources.json`
* `identity`: what makes two runs the same run
* `plan_trainer`: `PlanTrainer`, the base of both trainers: plan, steps, checkpoints, evaluation
* `trainer`: `HybridTrainer`: hybrid batches and the contrastive loss
* `mlm_trainer`: `MlmTrainer`: masked language modeling
* `run`: `run_training`: evaluate, train, evaluate, write, publish
"""
