# What cron does at night in a long-lived container, and an operator's apt.
. /day/common.sh
cp /cache/debs/*.deb /var/cache/apt/archives/
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends tree jq >/dev/null
echo '{"a": [1, 2]}' | jq -c .a
tree -L 1 /srv
for round in $(seq 200); do echo "GET / $round" >>/var/log/nginx/access.log; done
nginx && curl -fsS -o /dev/null http://127.0.0.1/
logrotate -f /etc/logrotate.conf
echo 'APT::Periodic::RandomSleep "0";' >/etc/apt/apt.conf.d/99now # or it waits half an hour
run-parts /etc/cron.daily
nginx -s quit
apt-get purge -qq -y tree >/dev/null
apt-get clean
tar -czf /srv/backup.tar.gz /etc /var/lib/dpkg 2>/dev/null
find /var/log -name '*.1' -newer /etc/hostname -size -1M
df -h / && ps aux | head -3 && du -sh /usr/share/doc
