"""The files of deploy/ name only what exists: flags, paths, ports, probes and variables; and every time to stop is
longer than the server's time to drain."""

import importlib
import re
import shlex
from configparser import RawConfigParser

import pytest
import yaml
from conftest import ROOT

DEPLOY = ROOT / "deploy"
SCRIPTS = ("api_server.py", "chainlit_app.py", "build_preferences.py")
API_VARIABLES = {"SLLM_API_KEYS", "SLLM_ADMIN_KEY"}  # of api_server.py, which has no variable for a flag
OTHERS_VARIABLES = {  # of Python, vLLM, uvicorn and libpq
    "HOME", "PYTHONPATH", "PYTHONUNBUFFERED", "VLLM_NO_USAGE_STATS", "FORWARDED_ALLOW_IPS", "PGPASSWORD",
}  # fmt: skip


def script_of(words: list[str]):
    """The script that a command line starts, its parsed flags, and where in `words` it stands."""
    at = next(i for i, word in enumerate(words) if word.startswith("/opt/sllm/") and word.endswith(".py"))
    name = words[at].removeprefix("/opt/sllm/")
    assert name in SCRIPTS
    assert (ROOT / name).is_file()
    try:
        return name, importlib.import_module(name.removesuffix(".py")).build_parser().parse_args(words[at + 1 :])
    except SystemExit:
        pytest.fail(f"does not parse: {shlex.join(words)}")


def is_known(variable: str, script: str) -> bool:
    if variable in API_VARIABLES:
        return script == "api_server.py" and any(
            variable in path.read_text(encoding="utf-8")
            for path in (ROOT / script, *sorted((ROOT / "sllm" / "serve").glob("*.py")))
        )
    if variable.startswith("SLLM_"):
        module = importlib.import_module("chainlit_app")
        flags = vars(module.build_parser().parse_args([])).keys() - {"add_user"}
        return script == "chainlit_app.py" and variable.removeprefix("SLLM_").lower() in flags
    return variable in OTHERS_VARIABLES or variable in image()["variables"]


def image() -> dict:
    """What the Dockerfile says."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", "", text)
    copied = [source for line in re.findall(r"^COPY (?!--)(.*)$", joined, re.MULTILINE) for source in line.split()[:-1]]
    return {
        "text": joined,
        "copied": copied,
        "variables": dict(re.findall(r"(\w+)=(\S+)", re.search(r"^ENV (HOME=.*)$", joined, re.MULTILINE)[1])),
        "ports": {int(port) for port in re.search(r"^EXPOSE (.*)$", joined, re.MULTILINE)[1].split()},
        "user": re.findall(r"^USER (\d+):(\d+)$", joined, re.MULTILINE)[-1],
    }


def with_values(value, given: dict[str, str]):
    """Compose's ${NAME}, ${NAME:-default} and ${NAME:?why} replaced."""

    def replace(found: re.Match) -> str:
        name, default = found[1], found[2]
        assert name in given or default is not None, f"{name} has no value"
        return given.get(name) or default

    if isinstance(value, dict):
        return {key: with_values(item, given) for key, item in value.items()}
    if isinstance(value, list):
        return [with_values(item, given) for item in value]
    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", replace, value) if isinstance(value, str) else value


def example_variables() -> dict[str, str]:
    """NAME=value of env.example, those in comments included."""
    text = (DEPLOY / "env.example").read_text(encoding="utf-8")
    given: dict[str, str] = {}
    for name, value in re.findall(r"^#?([A-Z][A-Z_]*)=(.*)$", text, re.MULTILINE):
        given.setdefault(name, value or "secret")
    return given


@pytest.fixture(scope="module")
def compose() -> dict:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+)", text)) | {"SLLM_ADMIN_KEY"}
    given = example_variables()
    assert asked <= set(given), "compose.yaml asks for what env.example does not list"
    assert set(given) <= asked | {"COMPOSE_FILE"}, "env.example lists what nothing reads"
    return with_values(yaml.safe_load(text), given)


@pytest.fixture(scope="module")
def kubernetes() -> dict[tuple[str, str], dict]:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def unit(name: str) -> dict[str, list[str]]:
    """{key: values} of a unit's [Service]."""
    parser = RawConfigParser(strict=False, delimiters="=", comment_prefixes="#")
    parser.optionxform = str
    text = (DEPLOY / "systemd" / f"{name}.service").read_text(encoding="utf-8")
    parser.read_string(text)
    assert parser.sections() == ["Unit", "Service", "Install"]
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text.partition("[Service]")[2].partition("[Install]")[0], re.M):
        values.setdefault(key, []).append(value)
    return values


def environment_file(name: str) -> dict[str, str]:
    """Every variable of an example file, those in comments included."""
    text = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^#?([A-Z][A-Z_]*)=(.*)$", text, re.MULTILINE))


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m|)", str(text)).groups()
    return int(number) * (60 if unit == "m" else 1)


# ── the demo's image ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("readme", ["README.md", "README.ko.md"])
def test_the_demos_image_is_built_with_the_commands_of_readme(readme):
    commands = re.findall(r"^make \w+", (ROOT / readme).read_text(encoding="utf-8"), re.MULTILINE)[:2]
    built = re.findall(r"^RUN (make \w+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert built == commands == ["make demo", "make serve"]


# ── the image ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_image_copies_what_exists_and_is_let_through():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored, "what is not listed has to stay out"
    allowed = {line[1:].rstrip("/") for line in ignored if line.startswith("!")}
    copied = set(image()["copied"])
    assert copied == allowed
    assert {*SCRIPTS, "sllm", "templates"} <= copied
    assert all((ROOT / path).exists() for path in copied)


def test_the_image_runs_as_nobody_special_and_holds_no_secret():
    made = image()
    assert made["user"] != ("0", "0")
    assert not [name for name in made["variables"] if re.search("KEY|PASSWORD|SECRET|TOKEN", name)]
    assert made["ports"] == {8000, 8501}
    assert not re.search(r"^(ADD|ARG \w*(KEY|PASSWORD|TOKEN))", made["text"], re.MULTILINE)


def test_the_image_is_built_from_files_of_ours_alone():
    text = image()["text"]
    assert set(re.findall(r"requirements[\w-]*\.txt", text)) == {"requirements.txt", "requirements-cpu.txt"}
    assert re.search(r"^TORCH_CPU_INDEX \?= \S+$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.search(r"^torch==", (ROOT / "requirements-cpu.txt").read_text(encoding="utf-8"), re.MULTILINE)


def test_probed_paths_exist():
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "sllm" / "serve").glob("*.py")))
    assert '"/health"' in code
    assert '"/ready"' in code


# ── compose ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("service", "port"), [("api", 8000), ("page", 8501)])
def test_compose_commands(compose, service, port):
    made = compose["services"][service]
    script, args = script_of(made["command"])
    assert (args.host, args.port) == ("0.0.0.0", port)
    assert port in image()["ports"]
    for name in made["environment"]:
        assert is_known(name, script), f"{script} does not read {name}"
    assert [published.split(":")[0] for published in made["ports"]] == ["127.0.0.1"]
    assert made["ports"][0].endswith(f":{port}")
    health = int(made["environment"].get("HEALTHCHECK_PORT", image()["variables"]["HEALTHCHECK_PORT"]))
    assert health == port
    assert "'/health'" in made["healthcheck"]["test"][-1]
    assert made["healthcheck"]["test"][-1] in image()["text"], "the image has another health check"
    assert made["read_only"]
    assert made["cap_drop"] == ["ALL"]


def test_compose_mounts_hold_what_the_commands_read(compose):
    services = compose["services"]
    _, api = script_of(services["api"]["command"])
    _, page = script_of(services["page"]["command"])
    targets = {mount["target"] for mount in services["api"]["volumes"] if isinstance(mount, dict)}
    assert any(api.model_id.startswith(f"{target}/") for target in targets)
    assert any(api.api_keys_file.startswith(f"{target}/") for target in targets)
    assert page.users_file.startswith("/var/lib/sllm/")
    assert page.auth == "password"
    named = {
        mount.partition(":")[0]
        for service in services.values()
        for mount in service["volumes"]
        if isinstance(mount, str)
    }
    assert named == set(compose["volumes"])
    ignored = (DEPLOY / ".gitignore").read_text(encoding="utf-8").split()
    assert {".env", "keys/"} <= set(ignored)


def test_compose_services_find_each_other(compose):
    services = compose["services"]
    _, api = script_of(services["api"]["command"])
    _, page = script_of(services["page"]["command"])
    assert page.api_base_url == f"http://api:{api.port}/v1"
    assert {"api", "localhost", "127.0.0.1"} <= set(api.allowed_hosts)
    database = services["db"]["environment"]
    assert page.database_url == f"postgresql://{database['POSTGRES_USER']}@db:5432/{database['POSTGRES_DB']}"
    assert services["page"]["environment"]["PGPASSWORD"] == database["POSTGRES_PASSWORD"]
    for name, needed in services["page"]["depends_on"].items():
        assert needed["condition"] == "service_healthy"
        assert "healthcheck" in services[name]
        assert set(services[name]["networks"]) & set(services["page"]["networks"])
    assert not set(services["db"]["networks"]) & set(services["api"]["networks"])


def test_compose_gpu_adds_to_the_api_alone():
    added = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text(encoding="utf-8"))
    (device,) = added["services"]["api"]["deploy"]["resources"]["reservations"]["devices"]
    assert list(added["services"]) == ["api"]
    assert device["capabilities"] == ["gpu"]
    assert example_variables()["COMPOSE_FILE"].split(":")[-1] == "compose.gpu.yaml"


# ── systemd ────────────────────────────────────────────────────────────────────────────────────────────────────


def unit_command(name: str) -> tuple[str, object, dict[str, str]]:
    """Script, flags and variables of a unit, with the example's environment file read."""
    values = unit(name)
    given = dict(pair.split("=", 1) for line in values["Environment"] for pair in shlex.split(line))
    (file,) = values["EnvironmentFile"]
    given |= environment_file(file.removeprefix("/etc/sllm/"))
    (command,) = values["ExecStart"]
    words = []
    for word in shlex.split(command):
        bare = re.fullmatch(r"\$(\w+)", word)  # systemd splits $NAME at spaces, ${NAME} it does not
        words += given[bare[1]].split() if bare else [re.sub(r"\$\{(\w+)\}", lambda found: given[found[1]], word)]
    return *script_of(words), given


@pytest.mark.parametrize(("name", "port"), [("sllm-api", 8000), ("sllm-page", 8501)])
def test_unit_commands(name, port):
    script, args, given = unit_command(name)
    assert (args.host, args.port) == ("127.0.0.1", port)
    (command,) = unit(name)["ExecStart"]
    for variable in given:
        assert f"${variable}" in command or f"${{{variable}}}" in command or is_known(variable, script), variable


@pytest.mark.parametrize("name", ["sllm-api", "sllm-page"])
def test_units_are_hardened_and_restart(name):
    values = unit(name)
    for key, value in {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "StateDirectory": name,
        "WorkingDirectory": f"/var/lib/{name}",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",
        "KillMode": "mixed",
        "User": "sllm",
    }.items():
        assert values[key] == [value]


def test_the_page_unit_asks_the_api_unit_and_writes_to_its_own_folder():
    _, api, _ = unit_command("sllm-api")
    _, _, given = unit_command("sllm-page")
    shown = dict(pair.split("=", 1) for line in unit("sllm-page")["Environment"] for pair in shlex.split(line))
    assert shown["SLLM_API_BASE_URL"] == f"http://{api.host}:{api.port}/v1"
    assert shown["SLLM_DATABASE_URL"].startswith("sqlite:////var/lib/sllm-page/")
    assert shown["SLLM_USERS_FILE"].startswith("/var/lib/sllm-page/")
    assert given["SLLM_DATABASE_URL"].startswith("postgresql://")


def test_the_api_unit_reads_its_keys_again_and_keeps_its_gpu():
    values = unit("sllm-api")
    assert values["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert not {"PrivateDevices", "ProtectClock", "DevicePolicy", "MemoryDenyWriteExecute"} & set(values)


# ── Kubernetes ─────────────────────────────────────────────────────────────────────────────────────────────────


def pod_of(kubernetes, name: str) -> tuple[dict, dict]:
    pod = kubernetes["Deployment", name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


@pytest.mark.parametrize(("name", "port"), [("sllm-api", 8000), ("sllm-page", 8501)])
def test_kubernetes_commands_and_ports(kubernetes, name, port):
    pod, container = pod_of(kubernetes, name)
    script, args = script_of(container["args"])
    assert (args.host, args.port) == ("0.0.0.0", port)
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    for each in container.get("env", []):
        assert is_known(each["name"], script), each["name"]
    service = kubernetes["Service", name]["spec"]
    assert service["ports"][0] == {"name": "http", "port": port, "targetPort": "http"}
    labels = kubernetes["Deployment", name]["spec"]["template"]["metadata"]["labels"]
    selected = kubernetes["Deployment", name]["spec"]["selector"]["matchLabels"]
    assert service["selector"] == selected
    assert selected.items() <= labels.items()
    assert pod["enableServiceLinks"] is False, "a Service's variables begin with SLLM_, as flags do"


@pytest.mark.parametrize("name", ["sllm-api", "sllm-page"])
def test_kubernetes_pods_are_locked_down_and_their_mounts_exist(kubernetes, name):
    pod, container = pod_of(kubernetes, name)
    user = int(image()["user"][0])
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == user
    assert pod["securityContext"]["fsGroup"] == user
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for volume in pod["volumes"]:
        claim = volume.get("persistentVolumeClaim")
        assert not claim or ("PersistentVolumeClaim", claim["claimName"]) in kubernetes
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert {"/tmp", "/var/lib/sllm"} <= writable


def test_kubernetes_probes(kubernetes):
    _, api = pod_of(kubernetes, "sllm-api")
    paths = {kind: api[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
    assert all(api[f"{kind}Probe"]["httpGet"]["port"] == "http" for kind in paths)
    loading = api["startupProbe"]["periodSeconds"] * api["startupProbe"]["failureThreshold"]
    assert 1200 <= loading < kubernetes["Deployment", "sllm-api"]["spec"]["progressDeadlineSeconds"]
    _, page = pod_of(kubernetes, "sllm-page")
    assert {page[f"{kind}Probe"]["httpGet"]["path"] for kind in paths} == {"/health"}


def test_kubernetes_keys_come_as_a_file_that_is_renewed(kubernetes):
    pod, container = pod_of(kubernetes, "sllm-api")
    _, args = script_of(container["args"])
    (mount,) = [m for m in container["volumeMounts"] if args.api_keys_file.startswith(m["mountPath"] + "/")]
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    assert "secret" in volume
    assert "subPath" not in mount
    assert args.api_keys_file.removeprefix(mount["mountPath"] + "/") == "api_keys"
    assert not any(kind == "Secret" for kind, _ in kubernetes)
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for secret in (volume["secret"]["secretName"], "sllm-page", "sllm-page-users"):
        assert f"secret generic {secret} " in readme
    assert "nvidia.com/gpu" in container["resources"]["limits"]


def test_kubernetes_page_asks_the_api_service(kubernetes):
    _, container = pod_of(kubernetes, "sllm-page")
    _, args = script_of(container["args"])
    assert args.api_base_url == f"http://sllm-api:{kubernetes['Service', 'sllm-api']['spec']['ports'][0]['port']}/v1"
    assert kubernetes["Deployment", "sllm-page"]["spec"]["replicas"] == 1
    assert kubernetes["Deployment", "sllm-page"]["spec"]["strategy"] == {"type": "Recreate"}


# ── all three ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_time_to_stop_is_longer_than_draining(compose, kubernetes):
    margin = 10  # for cancelled requests to hear of it, open connections to close, and the engine to end
    _, args = script_of(compose["services"]["api"]["command"])
    assert seconds(compose["services"]["api"]["stop_grace_period"]) >= args.shutdown_timeout + margin
    _, args, _ = unit_command("sllm-api")
    assert seconds(unit("sllm-api")["TimeoutStopSec"][0]) >= args.shutdown_timeout + margin
    pod, container = pod_of(kubernetes, "sllm-api")
    _, args = script_of(container["args"])
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] >= wait + args.shutdown_timeout + margin


def test_the_readme_names_every_file():
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file() and path.name not in ("README.md", ".gitignore", ".env") and "keys" not in path.parts:
            assert path.name in readme, path.name


def test_commands_in_the_readme_parse():
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "README.md").read_text(encoding="utf-8"))
    commands = list(re.findall(r"^ *(.*/opt/sllm/\w+\.py .*)$", text, re.MULTILINE))
    assert commands
    for command in commands:
        script_of(shlex.split(command))


def test_compose_follows_its_schema():
    from check_jsonschema import main
    from click.testing import CliRunner

    files = [str(DEPLOY / name) for name in ("compose.yaml", "compose.gpu.yaml")]
    done = CliRunner().invoke(main, ["--builtin-schema", "vendor.compose-spec", *files])
    assert done.exit_code == 0, done.output


def test_kubernetes_follows_its_schemas(kubernetes):
    import kubernetes_validate as validate

    for document in kubernetes.values():
        for version in ("1.29", validate.latest_version()):  # the oldest that kubernetes.yaml is for, and the newest
            validate.validate(document, version, strict=True)
