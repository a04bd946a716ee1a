#!/usr/bin/env bash
# pylance 14.0.2: a scan with a filter and `limit=0`, or `limit=1`, reads the vectors of the whole table: 308 MB of 308 MB
# for no row and for the first one, which matches. Of a search index one asks like this for "the rows that no index holds yet":
# where there are none, a million vectors of width 512 took 3 s and 450 MB of memory. Without a filter a limit is kept to.
# Seen on 2026-11-27, Linux, Python 3.11: the output is the last lines of this file. Exit 1 when it is another one.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pylance==14.0.2 numpy==2.4.6 pyarrow==26.0.1
cat > "$folder/scan.py" <<'PY'
import sys

import lance
import numpy
import pyarrow

table = sys.argv[1] + "/table.lance"
vectors = numpy.random.default_rng(0).random((300_000, 256), dtype=numpy.float32)
column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), 256)
lance.write_dataset(pyarrow.table({"vector": column}), table)


def read():
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])


for condition in (None, "vector IS NOT NULL"):
    for limit in (0, 1):
        before = read()
        found = lance.dataset(table).scanner(filter=condition, limit=limit).to_table()
        share = (read() - before) / vectors.nbytes
        print(lance.__version__, condition, "limit", limit, "rows", len(found), "read all" if share > 0.9 else "read little")
PY
"$folder/venv/bin/python" "$folder/scan.py" "$folder" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
14.0.2 None limit 0 rows 0 read little
14.0.2 None limit 1 rows 1 read little
14.0.2 vector IS NOT NULL limit 0 rows 0 read all
14.0.2 vector IS NOT NULL limit 1 rows 1 read all
SEEN
