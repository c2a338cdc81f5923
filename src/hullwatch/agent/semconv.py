"""Names of attributes: OpenTelemetry's conventions for generative AI and MCP, in one place.

Source: open-telemetry/semantic-conventions, docs/gen-ai (gen-ai-spans, gen-ai-agent-spans, mcp),
registry `gen_ai.*` and `mcp.*`. Ours begin with `hullwatch.`.
"""

from __future__ import annotations

OPERATION = "gen_ai.operation.name"  # chat, text_completion, embeddings, execute_tool, ...
PROVIDER = (
    "gen_ai.provider.name"  # openai, anthropic, aws.bedrock, azure.ai.openai, gcp.gemini, ...
)
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_TYPE = "gen_ai.tool.type"
AGENT_NAME = "gen_ai.agent.name"
CONVERSATION_ID = "gen_ai.conversation.id"

# Content: kept for workloads only that somebody chose (docs/content.md), never in a call itself.
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"
SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"

MCP_METHOD = "mcp.method.name"
MCP_SESSION = "mcp.session.id"
MCP_PROTOCOL = "mcp.protocol.version"
JSONRPC_ID = "jsonrpc.request.id"
JSONRPC_VERSION = "jsonrpc.protocol.version"
RPC_STATUS = "rpc.response.status_code"

SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
PEER_ADDRESS = "network.peer.address"  # where the bytes went, whatever the request says
PEER_PORT = "network.peer.port"
NETWORK_TRANSPORT = "network.transport"  # pipe (stdio), tcp
NETWORK_LOCAL_PORT = "network.local.port"  # of the connection to the server
HTTP_STATUS = "http.response.status_code"
ERROR_TYPE = "error.type"

ARGUMENTS_HASH = "hullwatch.arguments.hash"  # keyed
RESULT_HASH = "hullwatch.result.hash"
API_KEY_HASH = "hullwatch.api_key.hash"
API_KEY_KIND = "hullwatch.api_key.kind"
SESSION_HASH = "hullwatch.mcp.session.hash"  # keyed
PROBLEMS = "hullwatch.problems"  # what was odd about how it was said, comma-separated
SECRET_KINDS = "hullwatch.secret.kinds"  # comma-separated
TOOLS_OFFERED = "hullwatch.tools.offered"
TOOLS_CHOSEN = "hullwatch.tools.chosen"
STREAMED = "hullwatch.streamed"
FIRST_TOKEN = "hullwatch.first_token.ns"
SIGNS = "hullwatch.signs"  # of an injection, comma-separated
SIGN_OFFSETS = "hullwatch.signs.offsets"
ROUNDS = "hullwatch.rounds"  # requests that made up one call (MCP: input_required)
UNPARSED = "hullwatch.unparsed"  # too large to be looked into
REPEATS = "hullwatch.repeats"  # of a signal that were not told by themselves
