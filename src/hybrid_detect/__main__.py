"""``python -m hybrid_detect`` is the command ``hybrid-detect``."""

from hybrid_detect.cli import main

raise SystemExit(main())
