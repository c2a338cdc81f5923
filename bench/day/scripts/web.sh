# A client of nginx and of Python's server: pages, uploads, a health check.
. /day/common.sh
reach http://www.test/
for round in $(seq $((ROUNDS * 20))); do
    curl -fsS -o /dev/null http://www.test/
    curl -sS -o /dev/null -w '%{http_code}\n' http://www.test/missing
    curl -fsS -o /tmp/page.html -H 'Accept-Encoding: gzip' http://www.test/index.nginx-debian.html
done | sort | uniq -c
mkdir -p /srv/site && cp /tmp/page.html /srv/site/index.html
python3 -m http.server 8000 -d /srv/site 2>/dev/null &
reach http://127.0.0.1:8000/
curl -fsS -X HEAD -I http://127.0.0.1:8000/ >/dev/null
kill $!
