"""Where secrets lie: what the path of a file says of its content.

As in the rules of the pack (`hw_secret_like`, `hw_llm_key_file` and others), and more.
"""

from __future__ import annotations

from hullwatch.agent.classes import Classes

__all__ = ["LIKELY", "PATHS", "classify_path"]

_MAX_PATH = 4096

# A pattern that begins with neither `/` nor `**` holds in any folder.
PATHS = (
    (
        "kubernetes_service_account_token",
        "**/serviceaccount/**token **/kubernetes.io~projected/**token **/secrets/**tokens/**token",
    ),
    (
        "spiffe_svid",
        "**/spiffe*/**.pem **/spiffe*/**.key **/spire*/**.key svid.pem svid.key svid_key.pem"
        " jwt_svid.token **/workload-spiffe-credentials/** **/workload-identity/private_key.pem",
    ),
    ("mounted_secret", "/run/secrets/** /var/run/secrets/** /run/credentials/**"),
    ("", "*.pub /etc/ssl/certs/** /usr/share/ca-certificates/** ca-certificates.crt cacert.pem"),
    ("agent_transcript", ".aider.chat.history.md"),
    (
        "",
        "*.py *.pyc *.pyi *.so *.md **/*.dist-info/** .env.example .env.sample .env.template"
        " /usr/lib/** /usr/share/** /usr/include/** /lib/** **/site-packages/** **/node_modules/**",
    ),
    (
        "ssh_private_key",
        ".ssh/id_* /etc/ssh/ssh_host_*_key id_rsa id_ed25519 id_ecdsa id_dsa *.ppk",
    ),
    ("", ".ssh/known_hosts*"),
    ("ssh_configuration", ".ssh/**"),
    (
        "cloud_credentials",
        "**/.aws/**"
        " .config/gcloud/credentials.db .config/gcloud/access_tokens.db"
        " .config/gcloud/application_default_credentials.json .config/gcloud/legacy_credentials/**"
        " .azure/accessTokens.json .azure/msal_token_cache.* .azure/service_principal_entries.*"
        " .boto .s3cfg .oci/config .config/doctl/config.yaml .config/hcloud/cli.toml"
        " .config/rclone/rclone.conf .terraform.d/credentials.tfrc.json .terraformrc"
        " .fly/config.yml .pulumi/credentials.json *service-account*.json *service_account*.json"
        " .vault-token .cloudflared/*.json .wrangler/config/default.toml terraform.tfstate"
        " *.auto.tfvars .config/heroku/credentials.json .databrickscfg .snowflake/connections.toml",
    ),
    (
        "kubeconfig",
        ".kube/config .kube/cache/** kubeconfig *.kubeconfig /etc/kubernetes/*.conf"
        " /etc/rancher/k3s/k3s.yaml /etc/kubernetes/pki/**.key",
    ),
    (
        "container_registry_credentials",
        ".docker/config.json .dockercfg .dockerconfigjson **/containers/auth.json"
        " /var/lib/kubelet/config.json",
    ),
    (
        "git_credentials",
        ".git-credentials .config/git/credentials .config/gh/hosts.yml"
        " .config/glab-cli/config.yml .config/hub",
    ),
    (
        "package_registry_credentials",
        ".npmrc .pypirc .netrc _netrc .yarnrc.yml .cargo/credentials .cargo/credentials.toml"
        " .gem/credentials .composer/auth.json .m2/settings.xml .nuget/NuGet/NuGet.Config"
        " .config/pip/pip.conf .pip/pip.conf .gradle/gradle.properties .conda/.condarc",
    ),
    (
        "agent_credentials",
        ".claude/.credentials.json .claude.json .claude/settings*.json .codex/auth.json"
        " .gemini/oauth_creds.json .gemini/google_accounts.json .gemini/settings.json"
        " .cursor/mcp.json .cursor/cli-config.json .codex/config.toml .mcp.json mcp.json"
        " mcp_config.json mcp_settings.json claude_desktop_config.json .mcp-auth/**"
        " .config/github-copilot/hosts.json .config/github-copilot/apps.json"
        " .config/openai/auth.json .config/goose/secrets.yaml .local/share/opencode/auth.json"
        " .aider.conf.yml .continue/config.json .continue/config.yaml .codeium/**/mcp_config.json"
        " .qwen/oauth_creds.json .ollama/id_ed25519 .config/io.datasette.llm/keys.json"
        " .amazonq/**/auth.json .config/amp/settings.json .local/share/amp/secrets.json",
    ),
    (
        "model_hub_token",
        ".cache/huggingface/token .cache/huggingface/stored_tokens .huggingface/token"
        " .kaggle/kaggle.json .modelscope/credentials/** .replicate/**"
        " .config/wandb/settings .wandb/settings .ngc/config",
    ),
    (
        "agent_transcript",
        ".claude/projects/**.jsonl .claude/history.jsonl .codex/history.jsonl .codex/sessions/**"
        " .gemini/tmp/*/logs.json",
    ),
    ("env_file", ".env .env.* *.env .envrc .flaskenv .streamlit/secrets.toml"),
    (
        "browser_store",
        "Login?Data Login?Data?For?Account Web?Data logins.json key4.db key3.db cookies.sqlite"
        " signons.sqlite .config/google-chrome/*/Cookies .config/chromium/*/Cookies"
        " */Network/Cookies",
    ),
    (
        "keyring",
        ".local/share/keyrings/** .gnupg/private-keys-v1.d/** .gnupg/secring.gpg"
        " .password-store/** *.kdbx *.kdb *.agilekeychain/** *.1pif .config/op/config"
        " .pki/nssdb/key4.db *.keyring .bw/data.json .local/share/kwalletd/**",
    ),
    (
        "wallet",
        "wallet.dat default_wallet seed.txt .ethereum/keystore/** .electrum/wallets/**"
        " .bitcoin/** .config/solana/id.json .config/Exodus/**",
    ),
    (
        "account_hashes",
        "/etc/shadow* /etc/gshadow* /etc/master.passwd"
        " /etc/security/opasswd .htpasswd /etc/sudoers /etc/sudoers.d/**",
    ),
    ("process_environment", "/proc/*/environ /proc/*/task/*/environ environ"),
    ("process_memory", "/proc/*/mem /proc/*/task/*/mem /proc/kcore /dev/mem"),
    (
        "shell_history",
        ".bash_history .zsh_history .ash_history .sh_history .python_history .node_repl_history"
        " .psql_history .mysql_history .rediscli_history .local/share/fish/fish_history",
    ),
    (
        "database_credentials",
        ".pgpass pgpass.conf .my.cnf .mylogin.cnf .mongorc.js .dbshell /etc/mysql/debian.cnf"
        " wp-config.php config/database.yml config/master.key config/credentials.yml.enc",
    ),
    ("kerberos_ticket", "/tmp/krb5cc_* krb5.keytab *.keytab"),
    (
        "private_key_file",
        "*.pem *.key *.p12 *.pfx *.jks *.keystore *.p8 *.age /etc/ssl/private/**"
        " /etc/letsencrypt/**/privkey*.pem /etc/wireguard/*.conf",
    ),
    (
        "mounted_secret",
        "/run/secrets/** /var/run/secrets/** **/secrets/** /run/credentials/** /etc/secrets/**"
        " /vault/secrets/** /mnt/secrets-store/** /var/lib/kubelet/pods/**/secret/**",
    ),
    (
        "secret_file",
        "credentials credentials.json client_secret*.json secrets.json secrets.yaml secrets.yml"
        " secrets.toml token token.json .token auth.json oauth_creds.json api_key api_key.txt"
        " .credentials.json password.txt passwords.txt *secret *secrets *secret.txt *secrets.txt"
        " *secret.json *secret.yaml *secret.yml *-token *_token *.token *token.txt *password"
        " *passwords *credential *credentials *credentials.json *api_key *api-key *apikey"
        " *api_key.txt *api-key.txt tokens.json *_token.json *-token.json *secrets.json"
        " *secrets.y*ml *secrets.toml credentials.* *credentials.y*ml *password.json *password.y*ml"
        " *passwords.csv *passwords.json *api?keys.json *api?keys.y*ml **/credentials/**",
    ),
)

_CLASSES = Classes(PATHS, any_folder=True, any_case=True)
LIKELY = _CLASSES.pattern
"""RE2, with `s`: all paths that may have a class, and few more."""


def classify_path(path: str) -> str | None:
    """The class of secret material at a path, as the kernel names it; None: none that is known.
    Of more than 4096 characters, the end counts."""
    return _CLASSES.find(path[-_MAX_PATH:])
