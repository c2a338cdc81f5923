# Clones over git:// and http of 7,000 files with their history, then a day's commands.
. /day/common.sh
reach http://git.test/git/django.git/HEAD
cd /srv
git clone -q --depth 1 git://git.test/django.git shallow
git clone -q git://git.test/django.git work
cd work
git config user.name day && git config user.email day@example.org
git switch -q -c topic
for round in $(seq "$ROUNDS"); do
    for file in README.rst setup.cfg pyproject.toml docs/index.txt; do
        [ ! -f "$file" ] || sed -i "1s/^/change $round\n/" "$file"
    done
    git status --short
    git diff --stat
    git commit -qam "change $round"
done
git log --oneline --stat -3 >/dev/null
git grep -c 'def save' >/dev/null
git switch -q main && git merge -q --no-edit topic
git stash list && git tag v1 && git archive -o /tmp/work.tar v1 docs
git gc -q
if [ "$ROUNDS" -gt 1 ]; then
    git clone -q http://git.test/git/django.git ../dumb
    git fsck --no-progress
    git clone -q . ../local
    git -C ../local worktree add -q ../tree HEAD
    git -C ../local fetch -q
fi
