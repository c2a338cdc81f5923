"""Paths and names of variables that stand for secrets; no less than the rules hold for such."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.agent.secrets import classify_env, classify_path
from hullwatch.agent.secrets.environment import VARIABLES
from hullwatch.agent.secrets.paths import PATHS

RULES = Path(__file__).parents[2] / "rules"

PLACES = {
    "/var/run/secrets/kubernetes.io/serviceaccount/token": "kubernetes_service_account_token",
    "/run/secrets/kubernetes.io/serviceaccount/..2026_11_27/token": (
        "kubernetes_service_account_token"
    ),
    "/run/secrets/eks.amazonaws.com/serviceaccount/token": "kubernetes_service_account_token",
    "/run/spiffe-workload/tls/svid.key": "spiffe_svid",
    "/opt/app/svid.pem": "spiffe_svid",
    "/home/ada/.ssh/id_ed25519": "ssh_private_key",
    "/etc/ssh/ssh_host_rsa_key": "ssh_private_key",
    "/root/.aws/credentials": "cloud_credentials",
    "/root/.config/gcloud/legacy_credentials/a@b/adc.json": "cloud_credentials",
    "/srv/.env": "env_file",
    "/srv/.env.production": "env_file",
    "/root/.claude.json": "agent_credentials",
    "/root/.claude/.credentials.json": "agent_credentials",
    "/root/.codex/auth.json": "agent_credentials",
    "/root/.gemini/oauth_creds.json": "agent_credentials",
    "/root/.cursor/mcp.json": "agent_credentials",
    "/root/.claude/projects/-srv/3f.jsonl": "agent_transcript",
    "/root/.cache/huggingface/token": "model_hub_token",
    "/root/.config/google-chrome/Default/Login Data": "browser_store",
    "/root/.local/share/keyrings/login.keyring": "keyring",
    "/root/.git-credentials": "git_credentials",
    "/root/.config/gh/hosts.yml": "git_credentials",
    "/root/.kube/config": "kubeconfig",
    "/root/.docker/config.json": "container_registry_credentials",
    "/root/.npmrc": "package_registry_credentials",
    "/root/.netrc": "package_registry_credentials",
    "/etc/shadow": "account_hashes",
    "/proc/1/environ": "process_environment",
    "/proc/77/mem": "process_memory",
    "/root/.bash_history": "shell_history",
    "/run/secrets/db": "mounted_secret",
    "/run/credentials/app.service/key": "mounted_secret",
    "/srv/tls/server.key": "private_key_file",
    "/srv/tls/server.pem": "private_key_file",
}
PLACES |= dict.fromkeys(
    """/srv/prod-secrets.yaml /srv/Secrets.json /srv/tokens.json /srv/my_token.json /srv/my-token
    /srv/credentials.csv /srv/db-password.json /app/credentials/prod /srv/api_keys.yaml""".split(),
    "secret_file",
)
PLACES |= {
    "/root/.ssh/deploy_key": "ssh_configuration",
    "/root/.ssh/authorized_keys": "ssh_configuration",
    "/srv/SERVER.KEY": "private_key_file",
    "/usr/local/lib/app/server.pem": "private_key_file",
    "/run/secrets/app.py": "mounted_secret",
    "/etc/shadow.bak": "account_hashes",
    "/root/.aws/credentials.bak": "cloud_credentials",
}
NO_PLACES = """
/usr/lib/node_modules/x/.npmrc /usr/lib/python3/dist-packages/foo/mcp.json
/srv/model/added_tokens.json /srv/model/tokenizer.json /srv/model/special_tokens_map.json
/usr/lib/python3.11/token.py /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/Root.pem
/usr/lib/python3/dist-packages/certifi/cacert.pem /root/.ssh/id_ed25519.pub /root/.ssh/known_hosts
/srv/README.md /proc/self/status /srv/.env.example /etc/passwd /usr/bin/env
/srv/.venv/lib/python3.11/site-packages/x/secrets/token.py /srv/src/tokens.py /dev/null
/app/src/secrets/store.py /app/src/secrets/README.md
""".split()


@pytest.mark.parametrize("path", PLACES)
def test_a_place_of_secrets_is_known(path):
    assert classify_path(path) == PLACES[path]


@pytest.mark.parametrize("path", NO_PLACES)
def test_other_places_are_none(path):
    assert classify_path(path) is None


NAMES = {
    "OPENAI_API_KEY": "model_api_key",
    "ANTHROPIC_AUTH_TOKEN": "model_api_key",
    "HF_TOKEN": "model_api_key",
    "AWS_SECRET_ACCESS_KEY": "cloud_credentials",
    "GOOGLE_APPLICATION_CREDENTIALS": "credential_location",
    "DB_PASSWORD_FILE": "credential_location",
    "GITHUB_TOKEN": "code_host_token",
    "NPM_TOKEN": "package_registry_credentials",
    "VAULT_TOKEN": "vault_token",
    "DATABASE_URL": "database_credentials",
    "my_app_password": "generic_secret",
    "STRIPE_SECRET_KEY": "generic_secret",
    "SESSION_COOKIE": "generic_secret",
}
NO_NAMES = (
    "PATH HOME PWD OLDPWD LANG SSH_AUTH_SOCK MAX_TOKENS MONKEY TOKENIZERS_PARALLELISM".split()
)


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_with_a_secret_is_known(name):
    assert classify_env(name) == NAMES[name]


@pytest.mark.parametrize("name", NO_NAMES)
def test_other_variables_are_none(name):
    assert classify_env(name) is None


@given(st.text(max_size=300))
def test_any_name_is_taken(text):
    classes = {name for name, _ in (*PATHS, *VARIABLES)}
    assert classify_path(text) is None or classify_path(text) in classes
    assert classify_env(text) is None or classify_env(text) in classes


ABOUT_SECRETS = re.compile(
    r"hw_secret_\w+|hw_llm_key_file|Cloud credentials read .*|Service account token .*"
    r"|SSH private key .*|Environment of another .*|Memory of a process opened|Wallet or .*"
    r"|Account secrets .*|Conversation of .*|Shell history .*"
)
NAMED = re.compile(
    r"fd\.(?:name|filename) (?:=|in|glob|endswith|startswith|contains) (?:anyof )?"
    r"(?:\"([^\"]+)\"|\(([^)]*)\)|(\S+))"
)


def of_the_rules() -> set[str]:
    """Paths that rules hold for secret: one for each pattern of their conditions."""
    paths: set[str] = set()
    for file in sorted(RULES.rglob("*.yaml")):
        for item in yaml.safe_load(file.read_text()):
            if not ABOUT_SECRETS.fullmatch(item.get("rule", item.get("macro", ""))):
                continue
            for found in NAMED.findall(item.get("condition", "").partition("and not fd.name")[0]):
                for name in re.split(r",\s*", "".join(found)):
                    name = name.strip('"').replace("*", "x")
                    name += "x" * name.endswith("/")
                    paths.add(name if name.startswith("/") else f"/home/a/{name}")
    return paths


def test_what_the_rules_hold_for_secret_is_so_here():
    paths = of_the_rules()
    assert len(paths) > 50
    assert {"/.aws/credentials", "/home/a/wallet.dat", "/.codex/auth.json"} <= paths
    assert {path for path in paths if classify_path(path) is None} == set()
