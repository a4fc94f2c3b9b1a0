"""The page's parts without a browser: tables, files, translations, users, flags."""

import asyncio
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, assert_refused, run_script

from sllm.cli import InputError
from sllm.page import files, html_tables, markdown, security, users
from sllm.page.translations import EN, KO, texts_for


def test_a_table_becomes_markdown():
    html = (
        "앞 <table><caption>인구</caption><tr><th>도시</th><th colspan=2>수|만</th></tr><tr><td rowspan='2'>서울</td>"
    )
    html += "<td>1</td><td>2</td></tr><tr><td>3<br>4</td><td>&lt;b&gt;</td></tr></table> 뒤"
    assert html_tables.convert(html) == (
        "앞 \n\n**인구**\n\n| 도시 | 수\\|만 | 수\\|만 |\n| --- | --- | --- |\n"
        "| 서울 | 1 | 2 |\n| 서울 | 3 4 | &lt;b> |\n\n 뒤"
    )


@pytest.mark.parametrize(
    "text", ["표 없는 글 < 3 <tab", "<table><tr>끝나지 않는 표", "<table></table>", "a <TABLE><tr><td>x</TABLE> b"]
)
def test_streamed_in_any_pieces_a_text_shows_the_same(text):
    dice = random.Random(0)
    for _ in range(50):
        stream, shown, rest = html_tables.Tables(), "", text
        while rest:
            cut = dice.randint(1, 7)
            shown, rest = shown + stream.feed(rest[:cut]), rest[cut:]
        assert shown + stream.close() == html_tables.convert(text)


def test_a_table_that_was_cut_shows_its_whole_rows():
    cut = "<table><tr><th>이름</th></tr><tr><td>한라산</td></tr><tr><td>백두"
    assert html_tables.convert(cut).split() == "| 이름 | | --- | | 한라산 | 백두".split()
    html = "<table><tr><td>한라산</td></tr>\n\n설명은 <b>남는다</b>"
    assert html_tables.convert(html).endswith("설명은 <b>남는다</b>")
    assert html_tables.convert("<table> 태그는 </tr> 이렇게") == "<table> 태그는 </tr> 이렇게"


FORMULAS = (
    ("$5이고 판매가는 $10입니다", r"\$5이고 판매가는 \$10입니다"),
    ("가격은 $5~$10, $3.50과 $1,000", r"가격은 \$5~\$10, \$3.50과 \$1,000"),
    ("$5, $10 그리고 $a$", r"\$5, \$10 그리고 $a$"),
    ("$a^2+b^2=c^2$, $$x$$", "$a^2+b^2=c^2$, $$x$$"),
    (r"넓이 \( a^2 \), 부피 \[a^3\]!", "넓이 $a^2$, 부피 \n$$\na^3\n$$\n!"),
    (r"이미 \$5, 역슬래시 \\ 와 \n", r"이미 \$5, 역슬래시 \\ 와 \n"),
    ("`$HOME`과 ``a`$b`` 와 $3", "`$HOME`과 ``a`$b`` 와 \\$3"),
    ("```sh\necho $A \\(b\\)\n```\n$3", "```sh\necho $A \\(b\\)\n```\n\\$3"),
    ("보기:a) 사과 b) 배, 12:30, `x:y`, https://a.b", r"보기\:a) 사과 b) 배, 12:30, `x:y`, https://a.b"),
    (r"닫히지 않는 \( 와 \[ 와 $$", r"닫히지 않는 \( 와 \[ 와 \$\$"),
    ("```\n끝나지 않는 $코드", "```\n끝나지 않는 $코드"),
)


@pytest.mark.parametrize(("text", "shown"), FORMULAS)
def test_formulas_are_formulas_and_prices_are_prices(text, shown):
    assert markdown.render(text) == shown


def test_an_answer_that_streams_ends_as_it_would_at_once():
    code = "```sh\n" + "echo $HOME \\(x\\)\n" * 400 + "```"
    assert markdown.render(f"$1\n\n{code}\n\n$2") == f"\\$1\n\n{code}\n\n\\$2"
    text = (
        "\n\n".join(text for text, _ in FORMULAS[:-2])
        + f"\n\n{code}\n\n"
        + "\n\n<table><tr><td>$1</td></tr></table>\n\n끝 $x$"
    )
    dice = random.Random(0)
    for _ in range(50):
        stream, rest = markdown.Markdown(), text
        while rest:
            cut = dice.randint(1, 9)
            stream.feed(rest[:cut])
            rest = rest[cut:]
        stream.close()
        assert stream.rendered == markdown.render(text)


def test_a_paragraph_without_end_stays_cheap_to_show():
    """What may still change is bounded, so that each piece costs the same however long the answer is."""
    stream = markdown.Markdown()
    for _ in range(4000):
        stream.feed("\\[ $a ")
        assert len(stream._open) <= markdown.MAX_OPEN
    assert len(stream.rendered) >= 4000 * 4


def test_files_are_read_or_refused_by_name():
    def read(name: str, data: bytes) -> str:
        return files.read(data, name, 1049)

    assert read("a.txt", "\ufeff한글\r\n둘".encode()) == "한글\n둘"
    assert read("A.CSV", "가,나".encode("cp949")) == "가,나"
    for name, data, kind in (
        ("a.txt", b"x" * 2000, "file_too_large"), ("a.exe", b"x", "file_kind"), ("a.txt", b"a\0b", "file_binary"),
        ("a.txt", b"\xff\xfe\xff", "file_encoding"), ("a.md", b" \n", "file_empty"),
    ):  # fmt: skip
        with pytest.raises(files.Unreadable) as error:
            read(name, data)
        assert error.value.kind == kind
        assert KO[kind].format(**error.value.values) != KO[kind]


def fields(text: str) -> set:
    return {name for _, name, *_ in string.Formatter().parse(text) if name}


def test_both_languages_say_the_same_things():
    assert KO.keys() == EN.keys()
    assert KO["rules"].keys() == EN["rules"].keys()
    for name in KO:
        assert type(KO[name]) is type(EN[name])
        assert isinstance(KO[name], str) is False or fields(KO[name]) == fields(EN[name]), name
    assert texts_for("en-US,en;q=0.9") is EN
    assert all(texts_for(language) is KO for language in ("ko", None, "fr-FR,en"))


def test_every_rule_of_the_tasks_has_a_name():
    from sllm import tasks

    assert {rule for task in tasks.TASKS.values() for rule in task.rules} <= KO["rules"].keys()


def test_passwords_are_hashed_and_checked(tmp_path):
    path = str(tmp_path / "users.txt")
    users.add(path, "minji", "correct horse")
    users.add(path, "jun", "battery staple")
    users.add(path, "minji", "another horse")
    known = users.read(path)
    assert list(known) == ["jun", "minji"]
    assert "horse" not in Path(path).read_text()
    assert Path(path).stat().st_mode & 0o77 == 0
    assert users.verify(known["minji"], "another horse")
    assert not users.verify(known["minji"], "correct horse")
    assert not users.verify(None, "another horse")
    for name, password in (("a:b", "long enough"), ("", "long enough"), ("a", "short")):
        with pytest.raises(InputError):
            users.add(path, name, password)


def ask(host: str, origin: str | None, names=security.LOCAL_HOSTS) -> int:
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    async def owns(user: str, thread: str) -> bool:
        return True

    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    scope = {"type": "http", "headers": headers, "scheme": "http", "path": "/", "method": "GET"}
    asyncio.run(security.Security(app, "<script>x</script>", names, None, owns, 1000)(scope, None, send))
    return sent[0]["status"]


def test_other_sites_and_other_names_are_refused():
    assert ask("127.0.0.1:8501", None) == ask("localhost:8501", "http://localhost:8501") == 200
    assert ask("127.0.0.1:8501", "https://evil.example") == ask("evil.example:8501", None) == 403
    assert ask("chat.example.org", "https://chat.example.org", names=None) == 200


def test_wrong_flags_are_all_said_at_once(tmp_path):
    done = run_script("chainlit_app.py", "--api_base_url", "nowhere", "--port", "99999", "--auth", "password")
    assert_refused(done, "--api_base_url nowhere", "--port 99999", "--users_file")
    assert_refused(run_script("chainlit_app.py", "--host", "0.0.0.0"), "--auth password")
    (tmp_path / "users.txt").write_text("minji:secret\n")
    flags = ("--auth", "password", "--users_file", tmp_path / "users.txt")
    assert_refused(run_script("chainlit_app.py", *flags), "users.txt:1 is not name:hash")
    assert_refused(run_script("chainlit_app.py", "--database_url", "chat.db"), "not a SQLAlchemy URL")
    assert_refused(run_script("chainlit_app.py", SLLM_PORT="abc"), "abc")
    assert_refused(run_script("chainlit_app.py", "--starters_path", tmp_path / "none.txt"), "none.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    assert_refused(run_script("chainlit_app.py", "--starters_path", tmp_path / "empty.txt"), "has no line")


def test_a_command_makes_entries(tmp_path):
    command = [sys.executable, "chainlit_app.py", "--users_file", str(tmp_path / "users.txt"), "--add_user", "minji"]
    done = subprocess.run(command, cwd=ROOT, input="correct horse\n", text=True, capture_output=True)
    assert done.returncode == 0
    assert list(users.read(str(tmp_path / "users.txt"))) == ["minji"]


def test_only_prefixed_variables_are_read(monkeypatch):
    import chainlit_app

    for name in ("HOST", "PORT", "TIMEOUT", "AUTH", "API_KEY"):
        monkeypatch.setenv(name, "from another program")
    monkeypatch.setenv("SLLM_API_KEY", "secret")
    args = chainlit_app.build_parser().parse_args([])
    assert (args.host, args.port, args.api_key) == ("127.0.0.1", 8501, "secret")


def test_attempts_are_counted_in_a_window():
    from sllm.page.logins import Attempts

    attempts = Attempts(2, seconds=1000)
    assert [attempts.take("a") for _ in range(3)] == [True, True, False]
    assert attempts.take("b")
    attempts.give_back("a")
    assert [attempts.take("a") for _ in range(2)] == [True, False]
    for number in range(10_002):
        attempts.take(str(number))
    assert not attempts.take("a")  # who is counted still is
