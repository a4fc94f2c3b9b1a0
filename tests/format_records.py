"""A record of each format as its files have it, and the turns that it becomes: made up, in the layout of the source."""

ASK, TELL = {"role": "user", "content": "물은?"}, {"role": "assistant", "content": "100℃"}
WORSE = {"role": "assistant", "content": "몰라요"}
SYSTEM = {"role": "system", "content": "답하라."}
CONTEXT = "물은 1기압에서 100℃에 끓는다. 산 위에서는 더 낮은 온도에서 끓는다."


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def squad_article(*questions, context=CONTEXT):
    return {"title": "물", "paragraphs": [{"context": context, "qas": list(questions)}]}


def squad_question(text="100℃", start=10, **more):
    answers = [{"text": text, "answer_start": start}]
    return {"id": "q1", "question": "물은 몇 도에서 끓나?", "answers": answers, **more}


SHORT = [user("주어진 글에서 질문의 답을 찾아 50자 이하로 짧게, 글에 나온 그대로 적어 주세요.\n\n" + CONTEXT
              + "\n\n물은 몇 도에서 끓나?"), answer("100℃")]  # fmt: skip
LABELLED = user(f"###Context###:\n{CONTEXT}\n\n###Question###:\n물은?\n\n###Answer###:")

# (format, record, the turns of each row); the first user turn of a labelled text is checked without its instruction.
TRAINING = [
    ("messages", {"messages": [SYSTEM, ASK, TELL]}, [[SYSTEM, ASK, TELL]]),
    ("messages", {"messages": [{"from": "human", "value": "물은?"}, {"from": "gpt", "value": "100℃"}]}, [[ASK, TELL]]),
    ("sharegpt", {"id": "k1", "conversations": [
        {"from": "system", "value": "답하라."}, {"from": "human", "value": "물은?"}, {"from": "gpt", "value": "100℃"}]},
     [[SYSTEM, ASK, TELL]]),
    ("sharegpt", {"dialogue": [ASK, TELL]}, [[ASK, TELL]]),
    ("sharegpt", {"conversations": [{"from": "human", "value": "불은?"}, {"from": "gpt", "value": "차다", "weight": 0},
                                    {"from": "human", "value": "물은?"}, {"from": "gpt", "value": "100℃"}]},
     [[user("불은?"), answer("차다") | {"weight": 0}, ASK, TELL]]),
    ("sharegpt", {"대화": [{"role": "사용자", "content": "물은?"}, {"role": "챗봇", "content": "100℃"}]},
     [[ASK, TELL]]),
    ("system_user_assistant", {"system_prompt": "답하라.", "user_content": "물은?", "assistant_content": "100℃",
                               "task": "task04_01"}, [[SYSTEM, ASK, TELL]]),
    ("self_instruct", {"id": "seed_1", "instruction": "옮겨라", "instances": [{"input": "물", "output": "water"},
                                                                            {"input": "", "output": "?"}]},
     [[user("옮겨라\n\n물"), answer("water")], [user("옮겨라"), answer("?")]]),
    ("alpaca", {"instruction": "물은?", "input": "", "output": "100℃"}, [[ASK, TELL]]),
    ("alpaca", {"instruction": "물은?", "output": "100℃", "history": [["불은?", "뜨겁다"], ["얼음은?", "차다"]]},
     [[user("불은?"), answer("뜨겁다"), user("얼음은?"), answer("차다"), ASK, TELL]]),
    ("alpaca", {"instruction": "물은?", "context": CONTEXT, "response": "100℃", "category": "closed_qa"},
     [[user(f"물은?\n\n{CONTEXT}"), TELL]]),  # Dolly
    ("alpaca", {"instruction": "물은?", "output": "100℃", "url": "https://kin.naver.com/1"}, [[ASK, TELL]]),  # KoAlpaca
    ("input_output", {"input": "요약해 주세요.\n\n물은 100℃에 끓는다.", "output": "100℃에 끓는다.",
                      "Task_name": "Summarization"},
     [[user("요약해 주세요.\n\n물은 100℃에 끓는다."), answer("100℃에 끓는다.")]]),
    ("squad", squad_article(squad_question()), [SHORT]),
    ("squad", {"id": "q1", "context": CONTEXT, "question": "물은 몇 도에서 끓나?",
               "answers": {"text": ["100℃"], "answer_start": [10]}}, [SHORT]),
    ("squad", {"title": "물", "context": CONTEXT, "raw_html": "", "qas": [
        {"id": 8089, "question": "물은 몇 도에서 끓나?", "answer": {"text": "100℃", "answer_start": 10}}]}, [SHORT]),
    ("multiple_choice", {"question": "물은?", "answer": 2, "A": "0℃", "B": "100℃", "C": "50℃", "D": "9℃"},
     [[user("물은?\n\nA. 0℃\nB. 100℃\nC. 50℃\nD. 9℃"), answer("B. 100℃")]]),
    ("multiple_choice", {"question": "물은?", "choices": ["0℃", "100℃"], "answer": 1},
     [[user("물은?\n\nA. 0℃\nB. 100℃"), answer("B. 100℃")]]),
    ("question_answer", {"Q": "물은?", "A": "100℃", "label": "0"}, [[ASK, TELL]]),
    ("question_answer", {"질문": "물은?", "답변": "100℃"}, [[ASK, TELL]]),
    ("question_answer", {"번호": "1", "지문": CONTEXT, "질문": "물은?", "정답": "100℃"}, [[LABELLED, TELL]]),
    ("question_answer", {"system_prompt": "답하라.", "question": "물은?", "response": "100℃"}, [[SYSTEM, ASK, TELL]]),
    ("question_answer", {"prompt": "물은?", "response": "100℃"}, [[ASK, TELL]]),
    ("oasst_tree", {"message_tree_id": "t1", "tree_state": "ready_for_export", "prompt": {
        "role": "prompter", "text": "물은?", "replies": [
            {"role": "assistant", "text": "몰라요", "rank": 1, "replies": []},
            {"role": "assistant", "text": "100℃", "rank": 0, "replies": [
                {"role": "prompter", "text": "고마워", "replies": []}]}]}}, [[ASK, TELL]]),
    ("prompt_completion", {"prompt": "물은?", "completion": "100℃"}, [[ASK, TELL]]),
    ("prompt_completion", {"prompt": "물은?", "completion": "100℃", "label": True}, [[ASK, TELL]]),  # KTO
    ("marked_text", {"text": "### 질문: 물은?\n\n### 답변: 100℃<|endoftext|>"}, [[ASK, TELL]]),
    ("marked_text", {"text": "### Human: 물은?### Assistant: x\n### Assistant: 100℃"},
     [[user("물은?### Assistant: x"), TELL]]),
    ("marked_text", {"text": "아래는 지시입니다.\n\n### Instruction:\n물은?\n\n### Input:\n1기압\n\n### Response:\n"
                             "100℃"},
     [[{"role": "system", "content": "아래는 지시입니다."}, user("물은?\n\n1기압"), TELL]]),
    ("marked_text", {"text": "<s>[INST] <<SYS>>\n답하라.\n<</SYS>>\n\n물은? [/INST] 100℃ </s>"
                             "<s>[INST] 왜? [/INST] 압력 </s>"},
     [[SYSTEM, ASK, TELL, user("왜?"), answer("압력")]]),
    ("marked_text", {"text": "<|im_start|>system\n답하라.<|im_end|>\n<|im_start|>user\n물은?<|im_end|>\n"
                             "<|im_start|>assistant\n100℃<|im_end|>\n"}, [[SYSTEM, ASK, TELL]]),
    ("marked_text", {"text": "질문: 물은?\n답변: 100℃"}, [[ASK, TELL]]),
]  # fmt: skip

# (format, record, [(the end of the user turn, the answer) of each row])
LABELLED_TEXTS = [
    ("summary", {"본문": CONTEXT, "요약": "물은 100℃에 끓는다."}, [(f"\n\n{CONTEXT}", "물은 100℃에 끓는다.")]),
    ("nli", {"sentence1": "비가 온다.", "sentence2": "날이 맑다.", "gold_label": "contradiction"},
     [("\n\n전제: 비가 온다.\n가설: 날이 맑다.", "모순")]),
    ("nli", {"guid": "n1", "premise": "비가 온다.", "hypothesis": "땅이 젖는다.", "label": 0},
     [("\n\n전제: 비가 온다.\n가설: 땅이 젖는다.", "함의")]),
    ("same_meaning", {"id": "1", "sentence1": "비가 온다.", "sentence2": "비가 내린다.", "label": "1"},
     [("\n\n문장 1: 비가 온다.\n문장 2: 비가 내린다.", "같음")]),
    ("question_pairs", {"question1": "비가 오나?", "question2": "비가 내리나?", "is_duplicate": 1},
     [("\n\n질문 1: 비가 오나?\n질문 2: 비가 내리나?", "같음")]),
    ("question_pairs_0_same", {"question1": "비가 오나?", "question2": "비가 오나요?", "is_duplicate": "0"},
     [("\n\n질문 1: 비가 오나?\n질문 2: 비가 오나요?", "같음")]),
    ("sentence_similarity", {"genre": "news", "score": "4.25", "sentence1": "비가 온다.", "sentence2": "비가 내린다."},
     [("\n\n문장 1: 비가 온다.\n문장 2: 비가 내린다.", "4.2점")]),
    ("sentence_similarity", {"guid": "s", "sentence1": "가", "sentence2": "나",
                             "labels": {"label": 3.7, "binary-label": 1}},
     [("\n\n문장 1: 가\n문장 2: 나", "3.7점")]),
    ("sentiment", {"id": "9976970", "document": "아 더빙.. 진짜 짜증나네요", "label": "0"},
     [("\n\n아 더빙.. 진짜 짜증나네요", "부정")]),
    ("topic", {"guid": "y1", "title": "코스피 상승 마감", "label": 1, "url": "", "date": ""},
     [("\n\n코스피 상승 마감", "경제")]),
    ("hate_speech", {"comments": "좋은 기사네요", "contain_gender_bias": "False", "bias": "none", "hate": "none"},
     [("\n\n좋은 기사네요", "문제 없음"), ("\n\n좋은 기사네요", "편견 없음"), ("\n\n좋은 기사네요", "없음")]),
    ("labelled_text", {"문장": "배송이 빨라요", "감정": "기쁨"}, [("\n\n배송이 빨라요", "기쁨")]),
]  # fmt: skip

HH_GOOD, HH_BAD = (
    f"\n\nHuman: 물은?\n\nAssistant: 왜?\n\nHuman: 궁금해\n\nAssistant: {text}" for text in ("100℃", "몰라요")
)
HH_PROMPT = [ASK, answer("왜?"), user("궁금해")]
# (format, record, [(prompt, chosen, rejected) of each row])
PREFERENCE = [
    ("preference", {"prompt": "물은?", "chosen": "100℃", "rejected": "몰라요"}, [([ASK], "100℃", "몰라요")]),
    ("preference", {"prompt": "물은?", "prompt_id": "a", "chosen": [ASK, TELL], "rejected": [ASK, WORSE],
                    "score_chosen": 9.0, "score_rejected": 2.0}, [([ASK], "100℃", "몰라요")]),
    ("preference", {"chosen": HH_GOOD, "rejected": HH_BAD}, [(HH_PROMPT, "100℃", "몰라요")]),
    ("preference", {"chosen": "인간: 물은?\n\n도우미: 100℃", "rejected": "인간: 물은?\n\n도우미: 몰라요"},
     [([ASK], "100℃", "몰라요")]),
    ("preference", {"system": "답하라.", "question": "물은?", "chosen": "100℃", "rejected": "몰라요"},
     [([SYSTEM, ASK], "100℃", "몰라요")]),
    ("preference", {"conversations": [{"from": "human", "value": "물은?"}], "chosen": {"from": "gpt", "value": "100℃"},
                    "rejected": {"from": "gpt", "value": "몰라요"}}, [([ASK], "100℃", "몰라요")]),
    ("preference", {"instruction": "옮겨라", "input": "물", "chosen": "water", "rejected": "fire"},
     [([user("옮겨라\n\n물")], "water", "fire")]),
    ("preference", {"질문": "물은?", "좋은답변": "100℃", "나쁜답변": "몰라요"}, [([ASK], "100℃", "몰라요")]),
    ("ranked_completions", {"prompt": "물은?", "completion_0": "글쎄", "completion_1": "100℃", "completion_2": "몰라요",
                            "ranking": [1, 0, 2]},
     [([ASK], "100℃", "글쎄"), ([ASK], "100℃", "몰라요"), ([ASK], "글쎄", "몰라요")]),
    ("scored_answers", {"instruction": "물은?", "source": "evol_instruct", "completions": [
        {"model": "a", "response": "몰라요", "overall_score": 1.0, "fine-grained_score": 1.5},
        {"model": "b", "response": "100℃", "overall_score": 7.0, "fine-grained_score": 4.75},
        {"model": "c", "response": "글쎄", "overall_score": 9.0, "fine-grained_score": 3.0}]},
     [([ASK], "100℃", "몰라요")]),
    ("scored_answers", {"prompt": "\n\nHuman: 물은?\n\nAssistant: ", "answers": [
        {"answer": "100℃", "model": "a", "rank": 1.0}, {"answer": "몰라요", "model": "b", "rank": 7.0}]},
     [([ASK], "100℃", "몰라요")]),
    ("scored_answers", {"prompt": "물은?", "responses": ["몰라요", "100℃"], "scores": [0.1, 0.9]},
     [([ASK], "100℃", "몰라요")]),
]  # fmt: skip
