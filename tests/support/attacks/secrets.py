"""What is worth stealing: rules/secrets/."""

from __future__ import annotations

from support.attacks.attack import Attack

__all__ = ["ATTACKS"]

SECRETS = "/run/secrets/kubernetes.io/serviceaccount"

ATTACKS = (
    Attack(
        "token",
        f'open("{SECRETS}/token").read()',
        {"Service account token read by a tool or plugin": ".*/token"},
    ),
    Attack(
        "aws",
        'open("/root/.aws/credentials").read()',
        {"Cloud credentials read in a container": "/root/.aws/credentials"},
    ),
    Attack(
        "ssh-key",
        'open("/root/.ssh/id_ed25519").read()',
        {"SSH private key read by a program other than SSH": "/root/.ssh/id_ed25519"},
    ),
    Attack(
        "env-file",
        'run("/bin/cat", "/srv/app/.env")',
        {"API key file read by a shell or tool": "/srv/app/.env"},
        "cat",
    ),
    Attack(
        "environ",
        'open("/proc/1/environ").read()',
        {"Environment of another process read": "/proc/1/environ"},
    ),
    Attack(
        "memory", 'open("/proc/1/mem", "rb").close()', {"Memory of a process opened": "/proc/1/mem"}
    ),
    Attack(
        "search",
        'run("/bin/grep", "-r", "OPENAI_API_KEY", "/srv/app")',
        {
            "Secrets searched for by an AI agent": "/bin/grep",
            "API key file read by a shell or tool": "/srv/app/.env",
        },
        "grep",
    ),
    Attack(
        "wallet",
        'open("/root/.bitcoin/wallet.dat").read()',
        {"Wallet or password store read in a container": "/root/.bitcoin/wallet.dat"},
    ),
    Attack(
        "accounts",
        'open("/etc/shadow").read()',
        {"Account secrets read below an AI agent": "/etc/shadow"},
    ),
    Attack(
        "transcript",
        'run("/bin/cat", "/root/.claude/projects/p/1.jsonl")',
        {"Conversation of an assistant read by another program": ".*/1.jsonl"},
        "cat",
    ),
    Attack("env", 'run("/bin/env")', {"Environment printed below an AI agent": "/bin/env"}, "env"),
    Attack(
        "history",
        'open("/root/.bash_history").read()',
        {"Shell history read below an AI agent": "/root/.bash_history"},
    ),
    Attack(
        "dump",
        'run("/opt/bin/pg_dump", "prod")',
        {"Database dumped below an AI agent": "/bin/true"},
        "pg_dump",
    ),
    Attack(
        "keyring",
        "call(250 if os.uname().machine == 'x86_64' else 219, 0, -3, 0)",
        {"Kernel keyring used in a container": ".*"},
    ),
    Attack(
        "memory-read",
        "seen, read = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)\n"
        "part = lambda at: (ctypes.c_size_t * 2)(ctypes.addressof(at), 8)\n"
        "assert call(310 if os.uname().machine == 'x86_64' else 270, os.getpid(),"
        " part(read), 1, part(seen), 1, 0) == 8",
        {"Memory of another process read": ".*"},
    ),
)
