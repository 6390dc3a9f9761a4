#!/usr/bin/env bash
# Expected: a log record is gone once its handlers have written it, so that logging an error does not keep what the error's frames hold.
# Really:   importing Kivy puts a handler on Python's root logger that keeps the last hundred records of every library in a list, arguments
#           included, from DEBUG on and whatever the level of the console. An error that was given as an argument, as in
#           logger.error("the camera failed: %s", error), stays with its traceback, the frames of that, and all their locals: pictures,
#           buffers, widgets.
# Version:  kivy==2.3.1 on Linux x86-64, CPython 3.11.
# Source:   kivy/logger.py (LoggerHistory, KIVY_LOG_MODE); its documentation tells of the list, not of other libraries' arguments.
# Cares:    camera apps, whose frames have megabytes: a view that failed once is never freed, and nothing in the app refers to it. A library
#           avoids it by logging the error's text; an app by LoggerHistory.clear_history() or KIVY_LOG_MODE=PYTHON.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export KIVY_HOME="$folder/kivy" KIVY_NO_ARGS=1 KIVY_NO_FILELOG=1 KIVY_NO_CONSOLELOG=1
python3 -m venv venv
venv/bin/pip install --quiet kivy==2.3.1
cat > show.py <<'PYTHON'
import gc
import logging
import weakref

import kivy.logger


class Picture:
    pixels = bytes(1280 * 720 * 3)


def show(log):
    picture = Picture()
    kept = weakref.ref(picture)
    try:
        raise OSError("the camera failed")
    except OSError as error:
        log(error)
    return kept


def is_kept(log):
    kept = show(log)
    gc.collect()
    return kept() is not None


logger = logging.getLogger("a_library")
with_error = is_kept(lambda error: logger.error("no picture: %s", error))
with_text = is_kept(lambda error: logger.error("no picture: %s", str(error)))
kivy.logger.LoggerHistory.clear_history()
print(f"kept after logging the error: {with_error}, after logging its text: {with_text}")
assert with_error and not with_text, "this finding is out of date"
PYTHON
venv/bin/python show.py
