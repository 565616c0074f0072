# Import a history, look at it the ways people do, pack it tight, check it.
set -e
git init -q repository
cd repository
git fast-import --quiet <"$INPUT/history.txt"
git reset -q --hard
git log --stat --format='%H %an %ad %s' >../log.out
git log -p --follow --format=%h -- src/file3.c >../follow.out
git blame -s src/file1.c >../blame.out
git -c pack.threads=2 gc -q --aggressive
git fsck --full
git cat-file --batch-all-objects \
    --batch-check='%(objectname) %(objecttype) %(objectsize)' >../objects.out
git rev-list --count HEAD
