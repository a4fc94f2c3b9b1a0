"""vLLM's scheduler for the server on a CPU: of a few prompts that arrive together, half are read in one step."""

from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler

MAX_SEQUENCES = 16  # sequences that wait or run; with more there is always work, and the largest batch is the best
# Prompt tokens in a step, where as many wait: what a step costs by itself is then a small part of it.
MIN_PROMPT_TOKENS = 128


class Scheduler(VllmScheduler):
    """While at most `MAX_SEQUENCES` sequences wait or run, a step takes in half of those that wait.

    vLLM takes in all of them. On a CPU, where reading twice the tokens takes twice as long, prompts that arrive
    together then all wait for the last of them, get every token together and end together, and the engine has nothing
    to do until the next requests arrive. In halves the first answers begin sooner, and while the engine works on the
    others, those that are done are sent and followed by new ones. (On a GPU a step over a few prompts costs hardly
    more.)
    """

    def schedule(self, *args, **kwargs):
        limit = self.max_num_running_reqs
        self.max_num_running_reqs = min(limit, len(self.running) + self._taken_in())
        try:
            return super().schedule(*args, **kwargs)
        finally:
            self.max_num_running_reqs = limit

    def _taken_in(self) -> int:
        """How many of those that wait this step may take in; whole prompts, so that none is read for nothing."""
        waiting = len(self.skipped_waiting) + len(self.waiting)
        if waiting + len(self.running) > MAX_SEQUENCES:
            return waiting
        tokens = 0
        for count, request in enumerate([*self.skipped_waiting, *self.waiting], 1):  # in vLLM's order
            tokens += request.num_tokens - request.num_computed_tokens
            if count >= waiting / 2 and tokens >= MIN_PROMPT_TOKENS:
                return count
        return waiting
