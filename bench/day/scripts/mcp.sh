# An agent's container with MCP servers in it. Usage: mcp.sh SERVERS.json
. /day/common.sh
cd /srv
mkdir -p allowed
git init -q -b main repo
cd repo
git config user.name day && git config user.email day@example.org
echo one >notes.txt && git add notes.txt && git commit -qm first && echo two >>notes.txt
case $1 in
*python*) reach http://www.test/ ;;
*launchers*) cp -r /cache/npm /root/.npm && reach http://pypi.test/simple/ ;;
esac
cd /srv
exec python3 /day/mcp_client.py "$1" "$ROUNDS"
