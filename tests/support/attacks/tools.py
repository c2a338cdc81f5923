"""What is said between agents, tools and models: rules/agent/tools.yaml, rules/model/routes.yaml.

Told to the agent over its socket, as the gateway and workloads tell it."""

from __future__ import annotations

from support.attacks.attack import Attack

__all__ = ["ATTACKS"]


def _told(name: str, kind: str, rule: str) -> Attack:
    return Attack(name, f'signal("{kind}", "{name}", "as {name} does")', {rule: name}, told=True)


ATTACKS = (
    _told("rug-pull", "tool_changed", "Tool of an MCP server changed after it was trusted"),
    _told("look-alike", "tool_shadows", "Tool that passes for another server's"),
    _told("injection", "injection_in_result", "Text that gives orders to the model in a tool"),
    _told("leak", "secret_in_arguments", "Secret handed to a tool or given back by it"),
    _told(
        "mismatch",
        "header_mismatch",
        "Message between client and tools that two readers may read differently",
    ),
    Attack(
        "route",
        'ask_model("cheap-tokens", "chat-large")',
        {"Model of a provider that is not approved": "chat-large"},
        told=True,
    ),
    _told("canary", "canary_used", "Value of a canary used"),
    _told("held", "call_held", "Tool call held back by the gateway"),
    _told("blocked", "call_blocked", "Tool call blocked by policy"),
    _told("sampled", "model_call_blocked", "Model call blocked by policy"),
    _told("flood", "approval_flood", "Flood of actions that wait for a person"),
)
