"""`eval_loss` per supervised token, whatever the batch size."""


def per_token(trainer_class):
    """The trainer with an evaluation loss that is the mean over all supervised tokens of the set.

    transformers takes the mean of each batch and then the mean of the batches, so that a short answer's tokens count
    more than a long one's, and the figure (which chooses the best checkpoint) changes with --batch_size.
    """

    class PerTokenEvaluation(trainer_class):
        def prediction_step(self, model, inputs, *args, **kwargs):
            tokens = (inputs["labels"][..., 1:] != -100).sum()  # as the model's own loss shifts them
            loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
            self._loss_sum += (loss.double() * tokens).item()
            self._token_count += tokens.item()
            return loss, logits, labels

        def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
            self._loss_sum, self._token_count = 0.0, 0
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            output.metrics[f"{metric_key_prefix}_loss"] = self._loss_sum / self._token_count
            return output

    return PerTokenEvaluation
