#!/usr/bin/env bash
# Expected: whatever is wrong with a database file, Python's sqlite3 raises sqlite3.Error or a subclass, as PEP 249 says of all errors of a
#           database; so "except sqlite3.Error" is enough to tell a damaged file.
# Really:   when a damaged schema makes SQLite quote bytes that are not UTF-8 in its message, sqlite3 fails to decode the message and raises
#           UnicodeDecodeError, which is a ValueError.
# Version:  CPython 3.11 with the SQLite it was built with (the script prints both); pip==25.3 stands for "no package needed".
# Source:   seen here; PEP 249, "Exceptions": Error "is the base class of all other error exceptions".
# Cares:    apps that keep data in SQLite and want to tell a damaged file from a bug: the handler for damaged files is not reached.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pip==25.3
cat > show.py <<'PYTHON'
import sqlite3
import sys
from pathlib import Path

print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
path = Path("kept.db")
with sqlite3.connect(path) as database:
    database.execute("CREATE TABLE results (session TEXT, faces INTEGER)")
database.close()

whole = path.read_bytes()
place = whole.index(b"CREATE TABLE results")
seen = set()
for offset in range(len("CREATE TABLE results (")):
    path.write_bytes(whole[: place + offset] + b"\xff" + whole[place + offset + 1 :])
    database = sqlite3.connect(path)
    try:
        database.execute("SELECT * FROM results").fetchall()
        seen.add("no error")
    except Exception as error:
        seen.add(type(error).__name__)
    finally:
        database.close()
print("one byte of the schema's text made 0xFF:", ", ".join(sorted(seen)))
assert "UnicodeDecodeError" in seen, "this finding is out of date"
PYTHON
venv/bin/python show.py
