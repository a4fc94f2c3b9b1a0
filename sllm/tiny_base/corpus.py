"""What a tiny base is trained on: plain texts about the small world and the bare texts of the samples, as tokens."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from sllm.world import plain
from sllm.world.kinds import TYPES
from sllm.world.scenes import Piece

TOKENS_PER_STEP = 2048
READ = plain.Level(
    documents={"passage": 1, "dialogue": 6, "retelling": 4, "table": 4, "common": 3, "quiz": 2},
    turns={"question": 85, "letter": 5, "verdict": 5, "either": 5}, quizzes=("question",),
)  # fmt: skip
LISTS = plain.Level(documents={"list": 1})
JUDGE = plain.Level(
    documents={"dialogue": 6, "retelling": 1, "table": 2, "common": 2, "list": 4, "quiz": 8},
    turns={"question": 10, "letter": 50, "verdict": 35, "either": 5},
    quizzes=(
        "question", "asked pair", "sentence", "claim", "claim", "word", "letter", "letter", "asked letter",
        "asked letter",
    ),
)  # fmt: skip
QUIZZES = replace(JUDGE, documents={"list": 8, "quiz": 12})
# (until this share of the steps, level of the texts, tokens of a row): first to read, which emerges after 4 M tokens;
# then to compare words, the answer right behind the word and then farther away; then to judge and to choose
PHASES = (
    (0.06, replace(READ, max_facts=1), 256),
    (0.14, replace(READ, max_facts=2), 512),
    (0.26, READ, 512),
    (0.29, replace(LISTS, lists=("member",)), 256),
    (0.31, replace(LISTS, lists=("letter",)), 256),
    (0.345, replace(LISTS, lists=("word",)), 256),
    (0.47, replace(LISTS, lists=("member", "letter", "word", "choice")), 256),
    (0.51, replace(QUIZZES, max_facts=2, quizzes=("pair",)), 256),
    (0.60, replace(QUIZZES, max_facts=3, quizzes=("pair", "asked pair", "sentence", "claim", "word", "letter")), 256),
    (0.84, JUDGE, 512),
    (1.00, replace(plain.DEFAULT, lists=("asked", "word", "choice")), 1024),
)
# And to train such a model further: more retellings, tables and common words, which the short questions crowd out
FURTHER = replace(
    plain.DEFAULT,
    documents={"passage": 1, "dialogue": 4, "retelling": 9, "table": 8, "common": 6, "list": 2, "quiz": 4},
    turns={"question": 40, "letter": 25, "verdict": 30, "either": 5},
    lists=("asked", "word", "choice"), min_retold=2, by_kind=True,
)  # fmt: skip
FURTHER_PHASES = ((0.6, FURTHER, 512), (1.0, FURTHER, 1024))
SAMPLES_SHARE = 0.1  # of the documents: sample texts; the rest is about the world
RANDOM_WEIGHT = 0.1  # of the loss: a passage and the questions are drawn at random, only answers can be learned
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def sample_texts(folder: str | Path, only: set[str] | None = None) -> list[str]:
    """The bare texts of the samples, of the tasks in `only` or of all, each once, in a fixed order: all but the answers
    of the task rows."""
    texts: dict[str, None] = {}
    for path in sorted(Path(folder).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if only is not None and row.get("task") not in only:
                continue
            contents = [row[key] for key in ("system_prompt", "user_content") if key in row]
            for key in ("prompt", "chosen", "rejected"):
                contents += [message["content"] for message in row.get(key, [])]
            texts.update(dict.fromkeys(contents))
    return list(texts)


def tokenizer_texts(samples: list[str], seed: int) -> list[str]:
    """What the tokenizer is trained on: the samples, and 4,000 texts about the world."""
    return samples + [plain.document(random.Random(f"{seed} tokenizer {i}")) for i in range(4000)]


def train_tokenizer(texts: list[str], vocab_size: int) -> Any:
    """One token for each syllable, for each word that is a value in the world, for each number and each Latin word, by
    byte-level BPE; BOS in front of plain text, and ChatML's two turn tokens.

    A word has the same tokens whatever stands before and behind it, so that a model of a few layers can find it again:
    a BPE of 4,096 tokens takes half as many tokens for a text, and has others for the noun in 씨름은 and in 씨름이다.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    words = sorted({word for type_ in TYPES.values() for word in type_.words}, key=lambda word: (-len(word), word))
    # `a)` is one token: the letter of a choice
    split = rf"{'|'.join(words)}|[가-힣]|\p{{N}}+|[A-Za-z]+\)?|\s|[^\s\p{{L}}\p{{N}}]+|."
    splitter = pre_tokenizers.Split(Regex(split), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([splitter, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=4096
    )


class Batches:
    """Blocks of documents. A document is decided by the seed and its number alone, so a build can be stopped and
    resumed: `documents` is how many were drawn.

    A row begins with a document, and the last one in it is cut off where the row ends: no answer stands without the
    passage it is read off. A quarter of the documents stand as a lone turn of a random role, so that the turn tokens
    mean something; turns are never paired.
    """

    def __init__(self, tokenizer: Any, texts: list[str], seed: int, steps: int, *, further: bool = False) -> None:
        self.tokenizer, self.texts, self.seed, self.steps = tokenizer, texts, seed, steps
        self.phases = FURTHER_PHASES if further else PHASES
        self.name = f"{seed} further" if further else str(seed)
        self.documents = 0

    def batch(self, step: int) -> tuple[list[list[int]], list[list[int]], list[list[float]]]:
        """Token ids of a step, their positions in their documents and their loss weights: (rows, length) each,
        TOKENS_PER_STEP in all."""
        level, length = next((level, length) for share, level, length in self.phases if step <= share * self.steps)
        ids, positions, weights = zip(
            *(self._row(level, length) for _ in range(TOKENS_PER_STEP // length)), strict=True
        )
        return list(ids), list(positions), list(weights)

    def _row(self, level: plain.Level, length: int) -> tuple[list[int], list[int], list[float]]:
        ids: list[int] = []
        positions: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            start = len(ids)
            for text, follows in self._document(level):
                piece = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                ids += piece
                weights += [1.0 if follows else RANDOM_WEIGHT] * len(piece)
            weights[start] = 0.0  # nothing stands in front of it
            positions += range(len(ids) - start)
        return ids[:length], positions[:length], weights[:length]

    def _document(self, level: plain.Level) -> list[Piece]:
        draw = random.Random(f"{self.name} {self.documents}")
        self.documents += 1
        # beside short questions alone the samples would be most of the tokens
        has_prose = not set(level.documents) <= {"list", "quiz"}
        if has_prose and draw.random() < SAMPLES_SHARE:
            pieces = [(draw.choice(self.texts), False)]
        else:
            pieces = plain.document_pieces(draw, level)
        if draw.random() < 1 / 4:
            turn = f"<s><|im_start|>{draw.choice(['system', 'user', 'assistant'])}\n"
            return [(turn, False), *pieces, ("<|im_end|>\n", True)]
        return [("<s>", False), *pieces, ("</s>", True)]
