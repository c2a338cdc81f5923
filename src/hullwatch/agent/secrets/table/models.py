"""Providers of models, and what agents are built with."""

from __future__ import annotations

from hullwatch.agent.secrets.kind import Kind, assigned

__all__ = ["MODELS"]

MODELS = (
    # Of an API key, an administrator, and the sessions of Claude Code (oat, ort).
    Kind(
        "anthropic_api_key",
        "Anthropic",
        "sk-ant-",
        r"\b(sk-ant-[a-z]{2,8}[0-9]{2}-[\w-]{60,140})",
        "sk-ant-api03-{s93}AA",
        3.5,
    ),
    Kind(
        "openai_api_key",
        "OpenAI",
        "sk-proj- sk-svcacct- sk-admin- sk-None- T3BlbkFJ",
        r"\b(sk-(?:proj|svcacct|admin|None)-[\w-]{40,}|sk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20})",
        "sk-proj-{s74}T3BlbkFJ{s74}",
        3.5,
    ),
    Kind(
        "openrouter_api_key",
        "OpenRouter",
        "sk-or-v",
        r"\b(sk-or-v[0-9]-[0-9a-f]{64})\b",
        "sk-or-v1-{h64}",
    ),
    Kind(
        "deepseek_api_key",
        "DeepSeek",
        "deepseek",
        r"(?i)deepseek[^\r\n]{0,60}?\b(sk-[0-9a-f]{32})\b",
        "DEEPSEEK_API_KEY=sk-{h32}",
    ),
    Kind(
        "google_gemini_api_key",
        "Google",
        "AQ.Ab",
        r"\b(AQ\.Ab[\w-]{46,60})",
        "AQ.Ab8RN6{s44}",
        3.5,
    ),
    Kind("huggingface_token", "Hugging Face", "hf_", r"\b(hf_[A-Za-z]{34})\b", "hf_{a34}", 3.5),
    Kind(
        "huggingface_org_token",
        "Hugging Face",
        "api_org_",
        r"\b(api_org_[A-Za-z]{34})\b",
        "api_org_{a34}",
        3.5,
    ),
    Kind("replicate_token", "Replicate", "r8_", r"\b(r8_[A-Za-z0-9]{37})\b", "r8_{w37}", 3.5),
    Kind("groq_api_key", "Groq", "gsk_", r"\b(gsk_[A-Za-z0-9]{52})\b", "gsk_{w52}", 3.5),
    Kind("xai_api_key", "xAI", "xai-", r"\b(xai-[\w-]{70,120})", "xai-{w80}", 3.5),
    Kind(
        "perplexity_api_key",
        "Perplexity",
        "pplx-",
        r"\b(pplx-[A-Za-z0-9]{48})\b",
        "pplx-{w48}",
        3.5,
    ),
    Kind(
        "mistral_api_key",
        "Mistral",
        "mistral",
        assigned("mistral", r"[A-Za-z0-9]{32}"),
        "MISTRAL_API_KEY={w32}",
        3.8,
    ),
    Kind(
        "cohere_api_key",
        "Cohere",
        "cohere co_api_key",
        assigned("cohere|co_api_key", r"[A-Za-z0-9]{40}"),
        "COHERE_API_KEY={w40}",
        3.8,
    ),
    Kind(
        "together_api_key",
        "Together AI",
        "tgp_v1_",
        r"\b(tgp_v1_[\w-]{43})",
        "tgp_v1_{s43}",
        3.5,
    ),
    Kind(
        "fireworks_api_key", "Fireworks AI", "fw_", r"\b(fw_[A-Za-z0-9]{22,24})\b", "fw_{w24}", 3.8
    ),
    Kind("cerebras_api_key", "Cerebras", "csk-", r"\b(csk-[a-z0-9]{48})\b", "csk-{l48}", 3.5),
    Kind("nvidia_api_key", "NVIDIA", "nvapi-", r"\b(nvapi-[\w-]{60,70})", "nvapi-{s64}", 3.5),
    Kind(
        "elevenlabs_api_key",
        "ElevenLabs",
        "eleven xi-api-key",
        r"(?i)(?:eleven|xi-api-key)[^\r\n]{0,40}?\b(sk_[0-9a-f]{48})\b",
        "ELEVENLABS_API_KEY=sk_{h48}",
    ),
    Kind(
        "voyage_api_key",
        "Voyage AI",
        "pa-",
        r"(?:^|[^\w-])(pa-[\w-]{43})(?:[^\w-]|$)",
        "pa-{w43}",
        4.0,
    ),
    Kind(
        "pinecone_api_key",
        "Pinecone",
        "pcsk_",
        r"\b(pcsk_[A-Za-z0-9]{5,6}_[A-Za-z0-9]{60,66})\b",
        "pcsk_{w6}_{w63}",
        3.5,
    ),
    Kind(
        "wandb_api_key",
        "Weights & Biases",
        "wandb_v1_ wandb",
        r"(?i)(?:\b((?-i:wandb_v1_\w{77}))"
        r"|wandb[\w.-]{0,24}[\"']?[ \t]{0,4}[:=][ \t]{0,4}[\"']?([0-9a-f]{40})\b)",
        "WANDB_API_KEY={h40}",
    ),
    Kind(
        "langsmith_api_key",
        "LangSmith",
        "lsv2_",
        r"\b(lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10})\b",
        "lsv2_pt_{h32}_{h10}",
    ),
    Kind("langfuse_secret_key", "Langfuse", "sk-lf-", r"\b(sk-lf-[0-9a-f-]{36})\b", "sk-lf-{uuid}"),
    Kind(
        "llama_cloud_api_key",
        "LlamaIndex",
        "llx-",
        r"\b(llx-[A-Za-z0-9]{44,52})\b",
        "llx-{w48}",
        3.5,
    ),
    Kind("cursor_api_key", "Cursor", "key_", r"\b(key_[0-9a-f]{64})\b", "key_{h64}"),
    Kind(
        "tavily_api_key",
        "Tavily",
        "tvly-",
        r"\b(tvly-(?:dev-|prod-)?[A-Za-z0-9]{32})\b",
        "tvly-{w32}",
        3.5,
    ),
    Kind("firecrawl_api_key", "Firecrawl", "fc-", r"\b(fc-[0-9a-f]{32})\b", "fc-{h32}"),
    Kind("jina_api_key", "Jina AI", "jina_", r"\b(jina_[\w-]{55,65})", "jina_{w60}", 3.5),
    Kind(
        "runpod_api_key",
        "RunPod",
        "rpa_",
        r"\b(rpa_[A-Z0-9]{40}[A-Za-z0-9]{6})\b",
        "rpa_{u40}{w6}",
        3.5,
    ),
)
