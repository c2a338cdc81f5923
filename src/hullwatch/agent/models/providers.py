"""Whose host it is, one row a provider. Names are OTel's (gen_ai.provider.name) if it has one."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["COMPATIBLE", "PROVIDERS", "Provider", "provider_of"]

COMPATIBLE = "openai_compatible"
"""Speaks OpenAI's API at a host that is nobody's we know: vLLM, LiteLLM, a proxy. On the wire
nothing tells these apart, so none is claimed."""


class Provider(NamedTuple):
    """hosts: whole names, `*` stands for one or more labels. port: where a local server listens by
    default, 0: none of its own."""

    name: str
    hosts: tuple[str, ...]
    port: int = 0


PROVIDERS: tuple[Provider, ...] = (
    Provider("openai", ("api.openai.com", "*.api.openai.com")),
    Provider(
        "azure.ai.openai",
        (
            "*.openai.azure.com",
            "*.openai.azure.us",
            "*.openai.azure.cn",
            "*.cognitiveservices.azure.com",
        ),
    ),
    Provider(
        "azure.ai.inference",
        ("*.services.ai.azure.com", "*.models.ai.azure.com", "models.github.ai"),
    ),
    Provider("anthropic", ("api.anthropic.com",)),
    Provider("gcp.gemini", ("generativelanguage.googleapis.com",)),
    Provider(
        "gcp.vertex_ai",
        (
            "aiplatform.googleapis.com",
            "*-aiplatform.googleapis.com",
            "aiplatform.*.rep.googleapis.com",
        ),
    ),
    Provider(
        "aws.bedrock",
        (
            "bedrock-runtime.*.amazonaws.com",
            "bedrock-runtime-fips.*.amazonaws.com",
            "bedrock-runtime.*.amazonaws.com.cn",
            "*.bedrock-runtime.*.vpce.amazonaws.com",
            "bedrock-runtime.*.api.aws",
        ),
    ),
    Provider("cohere", ("api.cohere.com", "api.cohere.ai")),
    Provider("mistral_ai", ("api.mistral.ai", "codestral.mistral.ai")),
    Provider("groq", ("api.groq.com",)),
    Provider("deepseek", ("api.deepseek.com",)),
    Provider("x_ai", ("api.x.ai", "*.api.x.ai")),
    Provider("perplexity", ("api.perplexity.ai",)),
    Provider("ibm.watsonx.ai", ("*.ml.cloud.ibm.com",)),
    Provider("moonshot_ai", ("api.moonshot.ai", "api.moonshot.cn")),
    Provider("openrouter", ("openrouter.ai",)),
    Provider("together_ai", ("api.together.xyz", "api.together.ai")),
    Provider("fireworks_ai", ("api.fireworks.ai",)),
    Provider("cerebras", ("api.cerebras.ai",)),
    Provider("sambanova", ("api.sambanova.ai",)),
    Provider("nvidia", ("integrate.api.nvidia.com",)),
    Provider("hugging_face", ("router.huggingface.co", "api-inference.huggingface.co")),
    Provider("dashscope", ("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com")),
    Provider("zhipu_ai", ("open.bigmodel.cn", "api.z.ai")),
    Provider("github_copilot", ("api.githubcopilot.com", "api.*.githubcopilot.com")),
    Provider("ollama", ("ollama.com",), port=11434),
)


def _pattern(host: str) -> str:
    return re.escape(host).replace(r"\*", r"[a-z0-9.-]+")


_HOSTS = tuple(
    (row.name, re.compile("|".join(_pattern(host) for host in row.hosts))) for row in PROVIDERS
)
_PORTS = {row.port: row.name for row in PROVIDERS if row.port}


def provider_of(host: str, port: int) -> str:
    """'' where nobody we know has that name."""
    for name, pattern in _HOSTS:
        if pattern.fullmatch(host):
            return name
    return _PORTS.get(port, "")
