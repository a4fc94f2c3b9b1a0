"""vLLM's CPU worker with what 0.29.0 does wrong corrected: LoRA in mixed batches (`cpu_lora`), seeds of rows whose
prompt is read in parts, and sampling where nothing can be compiled.

Named to vLLM as its `worker_cls`, so that it is loaded in whichever process runs the model: this one offline, the
engine's own under the server.
"""

import logging

import numpy as np
import torch
import torch._dynamo
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler as Sampler
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from sllm.serve import cpu_lora

_own_forward = Sampler.forward_cpu


class Runner(CPUModelRunner):
    """vLLM samples a token for every row of a step, also where only part of the prompt was read and the token is thrown
    away. The row's generator then has to go back by one draw, which vLLM does by its offset; a generator on a CPU has
    none, and raises. Here its state from before the draw is put back, so that a seed gives the same answer however the
    prompt was cut."""

    def _sample(self, *args, **kwargs):
        before = [(generator, generator.get_state()) for generator in self._of_partial_prompts().values()]
        output = super()._sample(*args, **kwargs)
        for generator, state in before:
            generator.set_state(state)
        return output

    def _bookkeeping_sync(self, *args, **kwargs):
        partial = self._of_partial_prompts()
        for row in partial:  # out of sight of the code that sets offsets
            del self.input_batch.generators[row]
        try:
            return super()._bookkeeping_sync(*args, **kwargs)
        finally:
            self.input_batch.generators.update(partial)

    def _of_partial_prompts(self) -> dict[int, torch.Generator]:
        """Generators by row, of the rows whose token this step throws away."""
        rows = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0].tolist()
        generators = self.input_batch.generators
        return {row: generators[row] for row in rows if row in generators}


class Worker(cpu_worker.CPUWorker):
    def init_device(self):
        cpu_worker.CPUModelRunner = Runner  # the name by which it makes one
        Sampler.forward_cpu = _forward
        # vLLM compiles parts of sampling and of log-probabilities whatever `enforce_eager` says. Where there is no C++
        # compiler, or none of Python's header files, they run as they are instead of ending the engine.
        torch._dynamo.config.suppress_errors = True
        logging.getLogger("torch._dynamo.convert_frame").setLevel(logging.ERROR)  # 100 lines about each
        super().init_device()

    def load_model(self, *args, **kwargs):
        if self.vllm_config.lora_config:
            cpu_lora.group_by_adapter()
        super().load_model(*args, **kwargs)


def _forward(self, logits, generators, k, p):
    """Where rows have seeds, vLLM's sampler for a CPU draws for every row without a seed first, and then for those once
    more; the one for any device draws without seeds only where a row has none. With a seed both draw the same."""
    return self.forward_native(logits, generators, k, p) if generators else _own_forward(self, logits, generators, k, p)
