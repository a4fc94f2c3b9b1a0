"""vLLM's scheduler, kinder to the first of a few who ask at once. Named to vLLM as the server's `scheduler_cls` on a
CPU.
"""

from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler

FEW = 16  # sequences, waiting and running; with more there is always work, and the largest batch is the best
LEAST = 128  # prompt tokens that are worth a step of their own


class Scheduler(VllmScheduler):
    """While few sequences are about, a step reads half of the prompts that wait.

    A CPU takes as long for twice the tokens as for two steps. vLLM reads all prompts that wait in one step: whoever
    came together waits for the last prompt, gets every token together and ends together, and the engine then has
    nothing to do until the next requests are there. In halves the first answers begin sooner, and the others' requests
    are received and written while the engine works. (On a GPU, where a step costs nearly the same with few prompts and
    with many, vLLM's own way is right.)
    """

    def schedule(self, *args, **kwargs):
        self.max_num_scheduled_tokens = self.scheduler_config.max_num_batched_tokens
        waiting = [request.num_tokens - request.num_computed_tokens for request in self.waiting][: FEW + 1]
        if len(waiting) > 1 and len(waiting) + len(self.running) <= FEW:
            going_on = sum(request.num_tokens - request.num_computed_tokens for request in self.running)
            half = sum(waiting[: (len(waiting) + 1) // 2])
            self.max_num_scheduled_tokens = min(self.max_num_scheduled_tokens, going_on + max(half, LEAST))
        return super().schedule(*args, **kwargs)
