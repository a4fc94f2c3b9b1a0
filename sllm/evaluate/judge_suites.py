"""The judge's scores as suites: their names, and each question's scores."""

from sllm.evaluate.judge import Judged
from sllm.evaluate.suites import Measured, Metric, Question, Suite

KINDS = {
    "rubric": ("심사 모델: 항목별 (1–5)", "Judge: rubric (1–5)"),
    "total": ("심사 모델: 총점 (0–5)", "Judge: total (0–5)"),
    "mt_bench": ("심사 모델: MT-Bench (1–10)", "Judge: MT-Bench (1–10)"),
    "pairwise": ("심사 모델: 답변 비교", "Judge: pairs"),
}
METRICS = {
    "overall": ("종합", "Judge: overall"), "fluency": ("유창성", "Fluency"), "coherence": ("일관성", "Coherence"),
    "accuracy": ("정확성", "Accuracy"), "completeness": ("완전성", "Completeness"), "score": ("총점", "Judge: total"),
    "rating": ("평점", "Judge: rating"), "win_rate": ("승률 (비김은 절반)", "Win rate (ties half)"),
}  # fmt: skip


def measured(judged: Judged, questions: list[Question]) -> list[Measured]:
    found: list[Measured] = []
    for kind, scores in judged.scores.items():
        metrics = [
            Metric(key, *METRICS[key], unit="share" if kind == "pairwise" else "score", least=least, most=most)
            for key, (least, most) in judged.bounds[kind].items()
        ]
        suite = Suite(f"judge_{kind}", *KINDS[kind], tuple(metrics), "answers")
        details = judged.details if not found else {}
        ids, tasks = [question.id for question in questions], [question.task for question in questions]
        asked = {key: judged.details[key] for key in ("model", "language", "parameters")}
        asked |= {"template": judged.details["templates"][kind]}
        found.append(Measured(suite, ids, tasks, scores, details, asked))
    return found
