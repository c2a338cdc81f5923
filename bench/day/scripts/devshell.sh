# A developer's terminal: an unpacked source, a build with hundreds of small programs, edits, tests.
. /day/common.sh
export TERM=xterm
cd /srv
tar -xzf /cache/source/hello_*.orig.tar.gz && cd hello-*
find . -name '*.c' | xargs wc -l | tail -1
grep -rn 'main (' src | head -3
./configure --quiet >/dev/null
make -s >/dev/null
./hello --greeting='good morning'
vim.tiny -e -s -c '%s/Hello, world!/Good morning!/e' -c wq src/hello.c || true
sed -i 's/Hello, world!/Good morning!/' src/hello.c
make -s >/dev/null && ./hello
[ "$ROUNDS" -eq 1 ] || make -s check >/dev/null 2>&1 || true # its expected output has changed
make -s install DESTDIR=/tmp/stage prefix=/usr >/dev/null
tar -cJf /tmp/hello.tar.xz -C /tmp/stage usr
/tmp/stage/usr/bin/hello --version | head -1
awk -F: '{ print $1 }' /etc/passwd | sort | head -3
bash -c 'for i in 1 2 3; do date +%s; done' | tail -1
less -E -X README </dev/null >/dev/null
echo 'alias ll="ls -l"' >~/.bash_aliases && bash -i -c 'll /srv' 2>/dev/null | head -2
git init -q /srv/own && cd /srv/own && echo x >a && git add a
git -c user.name=day -c user.email=day@example.org commit -qm first
python3 - <<'PY'
import json, sqlite3
base = sqlite3.connect("/tmp/notes.db")
base.execute("CREATE TABLE IF NOT EXISTS notes (text)")
base.execute("INSERT INTO notes VALUES ('hello')")
base.commit()
print(json.dumps(base.execute("SELECT * FROM notes").fetchall()))
PY
