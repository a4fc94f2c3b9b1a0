BEGIN TRANSACTION;
CREATE TABLE elements (
	id VARCHAR(64) NOT NULL, 
	"threadId" VARCHAR(64), 
	type TEXT, 
	url TEXT, 
	"chainlitKey" TEXT, 
	name TEXT, 
	display TEXT, 
	"objectKey" TEXT, 
	size TEXT, 
	page INTEGER, 
	language TEXT, 
	"forId" TEXT, 
	mime TEXT, 
	props TEXT, 
	"autoPlay" BOOLEAN, 
	"playerConfig" TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "elements" VALUES('444c896e-9662-4615-8187-ecfc4e016843','cd9e2687-f6ac-4563-9328-73a47927023d','custom',NULL,'2413630e-250a-4c41-86c8-98bf162bd411','Arena','inline',NULL,NULL,NULL,NULL,'1487c857-8164-445b-b80d-02b7ebafd56b','application/json','{"comparison": "444c896e-9662-4615-8187-ecfc4e016843", "state": "writing", "left": "", "right": "", "waiting": ["", ""], "words": {"arena_ask": "어느 답이 더 좋은가요? 투표하면 이름이 보입니다.", "arena_writing": "답하는 중…", "arena_left": "왼쪽", "arena_right": "오른쪽", "vote_left": "왼쪽이 좋음", "vote_right": "오른쪽이 좋음", "vote_tie": "비김", "vote_both_bad": "둘 다 별로"}}',NULL,NULL);
INSERT INTO "elements" VALUES('3047cc17-45ce-49a1-b9b2-44126c611913','4567f9b9-0692-4829-954a-ca4343c97188','custom',NULL,NULL,'Verdict','inline',NULL,NULL,NULL,NULL,'c955962b-c297-4ce8-bbc6-f2eeda7b1966','application/json','{"ok": true, "word": "규칙을 모두 지켰습니다", "rules": [{"name": "한국어", "ok": true, "reason": null}]}',NULL,NULL);
CREATE TABLE feedbacks (
	id VARCHAR(64) NOT NULL, 
	"forId" VARCHAR(64), 
	"threadId" TEXT, 
	value INTEGER, 
	comment TEXT, 
	PRIMARY KEY (id)
);
CREATE TABLE sllm_answers (
	id VARCHAR(64) NOT NULL, 
	conversation VARCHAR(64) NOT NULL, 
	rater VARCHAR(200) NOT NULL, 
	model VARCHAR(500) NOT NULL, 
	prompt TEXT NOT NULL, 
	text TEXT NOT NULL, 
	finish_reason VARCHAR(40), 
	sampling TEXT NOT NULL, 
	template_hash VARCHAR(64), 
	task VARCHAR(40), 
	time VARCHAR(40) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "sllm_answers" VALUES('4afaa46c-e916-4738-bcef-ccb72460218b','b6c9c081-336a-4945-a06b-e1708220f6e1','local','good','[{"role": "user", "content": "하나"}]','good의 답: 하나 — 이것은 대역 서버의 답입니다.','stop','{"temperature": 0.7, "top_p": 1.0, "max_tokens": 512}',NULL,NULL,'2026-11-25T10:37:50.182+00:00');
INSERT INTO "sllm_answers" VALUES('5efc91eb-27e8-4617-92c3-f15fdc36c4b7','b6c9c081-336a-4945-a06b-e1708220f6e1','local','good','[{"role": "user", "content": "하나"}, {"role": "assistant", "content": "good의 답: 하나 — 이것은 대역 서버의 답입니다."}, {"role": "user", "content": "둘"}]','good의 답: 둘 — 이것은 대역 서버의 답입니다.','stop','{"temperature": 0.7, "top_p": 1.0, "max_tokens": 512}',NULL,NULL,'2026-11-25T10:37:50.699+00:00');
INSERT INTO "sllm_answers" VALUES('444c896e-9662-4615-8187-ecfc4e016843-left','cd9e2687-f6ac-4563-9328-73a47927023d','local','other','[{"role": "user", "content": "비교"}]','other의 답: 비교 — 이것은 대역 서버의 답입니다.','stop','{"temperature": 0.7, "top_p": 1.0, "max_tokens": 512}',NULL,NULL,'2026-11-25T10:37:51.268+00:00');
INSERT INTO "sllm_answers" VALUES('444c896e-9662-4615-8187-ecfc4e016843-right','cd9e2687-f6ac-4563-9328-73a47927023d','local','good','[{"role": "user", "content": "비교"}]','good의 답: 비교 — 이것은 대역 서버의 답입니다.','stop','{"temperature": 0.7, "top_p": 1.0, "max_tokens": 512}',NULL,NULL,'2026-11-25T10:37:51.279+00:00');
INSERT INTO "sllm_answers" VALUES('85e321ff-d46a-4c32-9f73-f9e952d8b570','4567f9b9-0692-4829-954a-ca4343c97188','local','good','[{"role": "system", "content": "질문에 올바른 답변을 작성해 주세요. 다음 규칙을 지켜야 합니다.\n\n1. 질문이 묻는 것에 먼저 답하고 이어서 설명합니다.\n2. 확실한 사실을 바탕으로 구체적으로 씁니다.\n3. 분석적이고 전문적인 어조를 유지합니다.\n4. 답변은 ''-''로 시작하는 글머리표를 써서 계층이 드러나게 작성합니다.\n5. Markdown으로 쓰되 코드 블록(```)은 쓰지 않습니다."}, {"role": "user", "content": "###Question###:\n옛 과제의 질문\n\n###Answer###:"}]','task04_01의 답입니다.','stop','{"temperature": 0.7, "top_p": 1.0, "max_tokens": 512}',NULL,'task04_01','2026-11-25T10:37:52.930+00:00');
CREATE TABLE sllm_comparisons (
	id VARCHAR(64) NOT NULL, 
	"left" VARCHAR(64) NOT NULL, 
	"right" VARCHAR(64) NOT NULL, 
	choice VARCHAR(10), 
	time VARCHAR(40) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY("left") REFERENCES sllm_answers (id), 
	FOREIGN KEY("right") REFERENCES sllm_answers (id)
);
INSERT INTO "sllm_comparisons" VALUES('444c896e-9662-4615-8187-ecfc4e016843','444c896e-9662-4615-8187-ecfc4e016843-left','444c896e-9662-4615-8187-ecfc4e016843-right','left','2026-11-25T10:37:51.298+00:00');
CREATE TABLE sllm_thumbs (
	answer VARCHAR(64) NOT NULL, 
	value INTEGER NOT NULL, 
	comment TEXT, 
	time VARCHAR(40) NOT NULL, 
	PRIMARY KEY (answer), 
	FOREIGN KEY(answer) REFERENCES sllm_answers (id)
);
CREATE TABLE steps (
	id VARCHAR(64) NOT NULL, 
	name TEXT, 
	type TEXT, 
	"threadId" VARCHAR(64), 
	"parentId" TEXT, 
	streaming BOOLEAN, 
	"waitForAnswer" BOOLEAN, 
	"isError" BOOLEAN, 
	metadata TEXT, 
	tags TEXT, 
	input TEXT, 
	output TEXT, 
	"createdAt" TEXT, 
	command TEXT, 
	start TEXT, 
	"end" TEXT, 
	generation TEXT, 
	"showInput" TEXT, 
	language TEXT, 
	indent INTEGER, 
	"defaultOpen" BOOLEAN, 
	modes TEXT, 
	"autoCollapse" BOOLEAN, 
	icon TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "steps" VALUES('a10f3e53-bc32-4025-9a1b-f793a872d764','local','user_message','b6c9c081-336a-4945-a06b-e1708220f6e1',NULL,0,0,0,'{}',NULL,NULL,'하나','2026-11-25T10:37:50.051838Z',NULL,'2026-11-25T10:37:50.051838Z','2026-11-25T10:37:50.051838Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "steps" VALUES('a9842544-bb01-42a5-8ed7-c04c3e1f81ab','on_chat_start','run','b6c9c081-336a-4945-a06b-e1708220f6e1',NULL,0,NULL,0,'{}',NULL,'{}','','2026-11-25T10:37:50.055549Z',NULL,'2026-11-25T10:37:50.055558Z','2026-11-25T10:37:50.114252Z','null','json',NULL,NULL,0,NULL,0,NULL);
INSERT INTO "steps" VALUES('4afaa46c-e916-4738-bcef-ccb72460218b','on_message','run','b6c9c081-336a-4945-a06b-e1708220f6e1','a10f3e53-bc32-4025-9a1b-f793a872d764',0,NULL,0,'{}',NULL,'하나','','2026-11-25T10:37:50.054263Z',NULL,'2026-11-25T10:37:50.054277Z','2026-11-25T10:37:50.187097Z','null','json',NULL,NULL,0,NULL,0,NULL);
INSERT INTO "steps" VALUES('5664523e-c40e-4056-8587-ec0718317456','sLLM','assistant_message','b6c9c081-336a-4945-a06b-e1708220f6e1','4afaa46c-e916-4738-bcef-ccb72460218b',0,0,0,'{"role": "answer", "text": "good\uc758 \ub2f5: \ud558\ub098 \u2014 \uc774\uac83\uc740 \ub300\uc5ed \uc11c\ubc84\uc758 \ub2f5\uc785\ub2c8\ub2e4.", "again": {"until": "5664523e-c40e-4056-8587-ec0718317456"}}',NULL,NULL,'good의 답: 하나 — 이것은 대역 서버의 답입니다.','2026-11-25T10:37:50.185964Z',NULL,'2026-11-25T10:37:50.185964Z','2026-11-25T10:37:50.185964Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "steps" VALUES('5efc91eb-27e8-4617-92c3-f15fdc36c4b7','on_message','run','b6c9c081-336a-4945-a06b-e1708220f6e1','246f094a-29ca-4c64-afac-01c4303683a0',0,NULL,0,'{}',NULL,'둘','','2026-11-25T10:37:50.692101Z',NULL,'2026-11-25T10:37:50.692115Z','2026-11-25T10:37:50.703808Z','null','json',NULL,NULL,0,NULL,0,NULL);
INSERT INTO "steps" VALUES('246f094a-29ca-4c64-afac-01c4303683a0','local','user_message','b6c9c081-336a-4945-a06b-e1708220f6e1',NULL,0,0,0,'{}',NULL,NULL,'둘','2026-11-25T10:37:50.689779Z',NULL,'2026-11-25T10:37:50.689779Z','2026-11-25T10:37:50.689779Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "steps" VALUES('54e314d5-d261-42a6-841f-160369cb59de','sLLM','assistant_message','b6c9c081-336a-4945-a06b-e1708220f6e1','5efc91eb-27e8-4617-92c3-f15fdc36c4b7',0,0,0,'{"role": "answer", "text": "good\uc758 \ub2f5: \ub458 \u2014 \uc774\uac83\uc740 \ub300\uc5ed \uc11c\ubc84\uc758 \ub2f5\uc785\ub2c8\ub2e4.", "again": {"until": "54e314d5-d261-42a6-841f-160369cb59de"}}',NULL,NULL,'good의 답: 둘 — 이것은 대역 서버의 답입니다.','2026-11-25T10:37:50.701135Z',NULL,'2026-11-25T10:37:50.701135Z','2026-11-25T10:37:50.701135Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "steps" VALUES('c84693dc-280f-41a9-99ea-86747243c383','on_chat_start','run','cd9e2687-f6ac-4563-9328-73a47927023d',NULL,0,NULL,0,'{}',NULL,'{}','','2026-11-25T10:37:51.246260Z',NULL,'2026-11-25T10:37:51.246274Z','2026-11-25T10:37:51.253060Z','null','json',NULL,NULL,0,NULL,0,NULL);
INSERT INTO "steps" VALUES('1531558a-adb5-4245-81dc-99f05ebb6a9e','local','user_message','cd9e2687-f6ac-4563-9328-73a47927023d',NULL,0,0,0,'{}',NULL,NULL,'비교','2026-11-25T10:37:51.242416Z',NULL,'2026-11-25T10:37:51.242416Z','2026-11-25T10:37:51.242416Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "steps" VALUES('1487c857-8164-445b-b80d-02b7ebafd56b','sLLM','assistant_message','cd9e2687-f6ac-4563-9328-73a47927023d','350503bd-dc29-4578-9102-0801948a35d5',0,0,0,'{"role": "answer", "text": "other\uc758 \ub2f5: \ube44\uad50 \u2014 \uc774\uac83\uc740 \ub300\uc5ed \uc11c\ubc84\uc758 \ub2f5\uc785\ub2c8\ub2e4.", "again": {"until": "1487c857-8164-445b-b80d-02b7ebafd56b"}, "comparison": "444c896e-9662-4615-8187-ecfc4e016843"}',NULL,NULL,'','2026-11-25T10:37:51.248803Z',NULL,'2026-11-25T10:37:51.248803Z','2026-11-25T10:37:51.248803Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "steps" VALUES('350503bd-dc29-4578-9102-0801948a35d5','on_message','run','cd9e2687-f6ac-4563-9328-73a47927023d','1531558a-adb5-4245-81dc-99f05ebb6a9e',0,NULL,0,'{}',NULL,'','','2026-11-25T10:37:51.245018Z',NULL,'2026-11-25T10:37:51.245033Z','2026-11-25T10:37:51.284799Z','null','json',NULL,NULL,0,NULL,0,NULL);
INSERT INTO "steps" VALUES('1c681c52-ee36-46d5-a7b9-d7b12d9ce457','on_chat_start','run','4567f9b9-0692-4829-954a-ca4343c97188',NULL,0,NULL,0,'{}',NULL,'{}','','2026-11-25T10:37:51.868846Z',NULL,'2026-11-25T10:37:51.868859Z','2026-11-25T10:37:51.874728Z','null','json',NULL,NULL,0,NULL,0,NULL);
INSERT INTO "steps" VALUES('4a0eb505-4ebc-4db3-a4d9-0a223320d690','한국어 sLLM','assistant_message','4567f9b9-0692-4829-954a-ca4343c97188','7e7eaf09-12ea-4438-bcef-b3fd3f8350d2',0,0,0,'{"role": "note"}',NULL,NULL,'과제를 고르고 칸을 채우세요. 예시로 시작할 수 있습니다.','2026-11-25T10:37:51.885863Z',NULL,'2026-11-25T10:37:51.885863Z','2026-11-25T10:37:51.885863Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "steps" VALUES('7e7eaf09-12ea-4438-bcef-b3fd3f8350d2','on_message','run','4567f9b9-0692-4829-954a-ca4343c97188','205c996c-fd88-400a-812c-439640f99423',0,NULL,0,'{}',NULL,'','','2026-11-25T10:37:51.867060Z',NULL,'2026-11-25T10:37:51.867075Z','2026-11-25T10:37:51.901876Z','null','json',NULL,NULL,0,NULL,0,NULL);
INSERT INTO "steps" VALUES('205c996c-fd88-400a-812c-439640f99423','local','user_message','4567f9b9-0692-4829-954a-ca4343c97188',NULL,0,0,0,'{"role": "command"}',NULL,NULL,'','2026-11-25T10:37:51.864056Z','과제','2026-11-25T10:37:51.864056Z','2026-11-25T10:37:51.864056Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "steps" VALUES('6d413333-1ec8-4291-8e85-b2e95440d773','local','user_message','4567f9b9-0692-4829-954a-ca4343c97188','85e321ff-d46a-4c32-9f73-f9e952d8b570',0,0,0,'{"role": "task", "task": "task04_01"}',NULL,NULL,'**생성형 단답 (개조식)** `task04_01`

*질문 또는 지시*

옛 과제의 질문','2026-11-25T10:37:52.888878Z',NULL,'2026-11-25T10:37:52.888878Z','2026-11-25T10:37:52.888878Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "steps" VALUES('85e321ff-d46a-4c32-9f73-f9e952d8b570','on_message','run','4567f9b9-0692-4829-954a-ca4343c97188',NULL,0,NULL,0,'{}',NULL,'','','2026-11-25T10:37:52.883836Z',NULL,'2026-11-25T10:37:52.884697Z','2026-11-25T10:37:52.952271Z','null','json',NULL,NULL,0,NULL,0,NULL);
INSERT INTO "steps" VALUES('c955962b-c297-4ce8-bbc6-f2eeda7b1966','sLLM','assistant_message','4567f9b9-0692-4829-954a-ca4343c97188','85e321ff-d46a-4c32-9f73-f9e952d8b570',0,0,0,'{"role": "answer", "text": "task04_01\uc758 \ub2f5\uc785\ub2c8\ub2e4.", "again": {"task": "task04_01", "fields": {"question": "\uc61b \uacfc\uc81c\uc758 \uc9c8\ubb38"}}, "messages": [{"role": "system", "content": "\uc9c8\ubb38\uc5d0 \uc62c\ubc14\ub978 \ub2f5\ubcc0\uc744 \uc791\uc131\ud574 \uc8fc\uc138\uc694. \ub2e4\uc74c \uaddc\uce59\uc744 \uc9c0\ucf1c\uc57c \ud569\ub2c8\ub2e4.\n\n1. \uc9c8\ubb38\uc774 \ubb3b\ub294 \uac83\uc5d0 \uba3c\uc800 \ub2f5\ud558\uace0 \uc774\uc5b4\uc11c \uc124\uba85\ud569\ub2c8\ub2e4.\n2. \ud655\uc2e4\ud55c \uc0ac\uc2e4\uc744 \ubc14\ud0d5\uc73c\ub85c \uad6c\uccb4\uc801\uc73c\ub85c \uc501\ub2c8\ub2e4.\n3. \ubd84\uc11d\uc801\uc774\uace0 \uc804\ubb38\uc801\uc778 \uc5b4\uc870\ub97c \uc720\uc9c0\ud569\ub2c8\ub2e4.\n4. \ub2f5\ubcc0\uc740 ''-''\ub85c \uc2dc\uc791\ud558\ub294 \uae00\uba38\ub9ac\ud45c\ub97c \uc368\uc11c \uacc4\uce35\uc774 \ub4dc\ub7ec\ub098\uac8c \uc791\uc131\ud569\ub2c8\ub2e4.\n5. Markdown\uc73c\ub85c \uc4f0\ub418 \ucf54\ub4dc \ube14\ub85d(```)\uc740 \uc4f0\uc9c0 \uc54a\uc2b5\ub2c8\ub2e4."}, {"role": "user", "content": "###Question###:\n\uc61b \uacfc\uc81c\uc758 \uc9c8\ubb38\n\n###Answer###:"}]}',NULL,NULL,'task04_01의 답입니다.','2026-11-25T10:37:52.943293Z',NULL,'2026-11-25T10:37:52.943293Z','2026-11-25T10:37:52.943293Z','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE threads (
	id VARCHAR(64) NOT NULL, 
	"createdAt" TEXT, 
	name TEXT, 
	"userId" TEXT, 
	"userIdentifier" TEXT, 
	tags TEXT, 
	metadata TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "threads" VALUES('b6c9c081-336a-4945-a06b-e1708220f6e1','2026-11-25T10:37:50.126Z','하나','3e1de329-fb54-4663-a7be-4350ae6f7a8e','local',NULL,'{"chat_settings": {"system_prompt": "", "temperature": 0.7, "top_p": 1.0, "top_k": 0.0, "max_tokens": 512.0, "repetition_penalty": 1.0, "seed": ""}, "chat_profile": "good", "client_type": "webapp", "env": {}}');
INSERT INTO "threads" VALUES('cd9e2687-f6ac-4563-9328-73a47927023d','2026-11-25T10:37:51.258Z','비교','3e1de329-fb54-4663-a7be-4350ae6f7a8e','local',NULL,'{"chat_settings": {"system_prompt": "", "temperature": 0.7, "top_p": 1.0, "top_k": 0.0, "max_tokens": 512.0, "repetition_penalty": 1.0, "seed": ""}, "chat_profile": "arena", "client_type": "webapp", "env": {}}');
INSERT INTO "threads" VALUES('4567f9b9-0692-4829-954a-ca4343c97188','2026-11-25T10:37:51.906Z','생성형 단답 (개조식): 옛 과제의 질문','3e1de329-fb54-4663-a7be-4350ae6f7a8e','local',NULL,'{"chat_settings": {"system_prompt": "", "temperature": 0.7, "top_p": 1.0, "top_k": 0.0, "max_tokens": 512.0, "repetition_penalty": 1.0, "seed": ""}, "chat_profile": "good", "client_type": "webapp", "env": {}}');
CREATE TABLE users (
	id VARCHAR(64) NOT NULL, 
	identifier VARCHAR(200), 
	metadata TEXT, 
	"createdAt" TEXT, 
	PRIMARY KEY (id), 
	UNIQUE (identifier)
);
INSERT INTO "users" VALUES('3e1de329-fb54-4663-a7be-4350ae6f7a8e','local','{}','2026-11-25T10:37:50.027Z');
CREATE INDEX ix_sllm_answers_conversation ON sllm_answers (conversation);
CREATE INDEX "ix_steps_threadId" ON steps ("threadId");
CREATE INDEX "ix_elements_threadId" ON elements ("threadId");
CREATE INDEX "ix_feedbacks_forId" ON feedbacks ("forId");
COMMIT;
