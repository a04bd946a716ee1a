#!/usr/bin/env bash
# safetensors 0.8.0: save_file makes files that only their owner can read (0600), whatever the umask and whatever the
# file had before; a link to a file is replaced by a file. 0.5.3 did neither. A model that one account trains on a shared
# disk cannot be read by the account that serves it, and a folder of links (as in the Hub's cache) turns into copies.
# Seen on 2026-11-27, Linux, Python 3.11: the output is the last lines of this file. Exit 1 when it is another one.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat > "$folder/save.py" <<'PY'
import os
import sys

import numpy
import safetensors
from safetensors.numpy import save_file

os.umask(0o022)
os.chdir(sys.argv[1])
save_file({"weight": numpy.ones(2, numpy.float32)}, "new")
open("shared", "w").close()
os.chmod("shared", 0o664)
save_file({"weight": numpy.ones(2, numpy.float32)}, "shared")
open("target", "w").close()
os.symlink("target", "link")
save_file({"weight": numpy.ones(2, numpy.float32)}, "link")
mode = lambda name: oct(os.stat(name).st_mode & 0o777)
print(safetensors.__version__, "new", mode("new"), "shared", mode("shared"), "still a link", os.path.islink("link"))
PY
for version in 0.5.3 0.8.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check "safetensors==$version" numpy==2.4.6
  mkdir "$folder/of-$version"
  "$folder/$version/bin/python" "$folder/save.py" "$folder/of-$version"
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
0.5.3 new 0o644 shared 0o664 still a link True
0.8.0 new 0o600 shared 0o600 still a link False
SEEN
