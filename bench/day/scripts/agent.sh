# An agent made with OpenAI's SDK, its model on an address of its own.
. /day/common.sh
mkdir -p /srv/agent && cd /srv/agent
printf 'OPENAI_API_KEY=sk-not-a-key\nOPENAI_BASE_URL=http://llm.test/v1\n' >.env
printf 'model: small\nsystem: You are a careful clerk.\n' >config.yaml
printf '# Notes\n\nThe quarter was quiet.\n' >report.md
reach http://llm.test/health
exec /opt/mcp/bin/python /day/agent.py $((ROUNDS * 5))
