"""What a bundle needs that PyInstaller cannot see in the code."""

from typing import Any

from PyInstaller.utils.hooks import (
    can_import_module,
    collect_all,
    collect_data_files,
    collect_submodules,
    copy_metadata,
)

LEFT_OUT = ("cli", "integrations", "server", "simulation", "testing")
"""Parts that an app's bundle does not need. What the app itself imports of them is found anyway."""


def _is_needed(name: str) -> bool:
    return not name.startswith(tuple(f"hybrid_detect.{part}" for part in LEFT_OUT))


hiddenimports = collect_submodules("hybrid_detect", filter=_is_needed)
datas = copy_metadata("hybrid-detect")  # for `hybrid_detect.__version__`
datas += collect_data_files("hybrid_detect")  # the pages of the report and the server
binaries: list[Any] = []

for runtime in ("mediapipe", "ai_edge_litert"):
    if can_import_module(runtime):
        # With the package's metadata: the version of LiteRT says how its library is spoken to.
        more_datas, more_binaries, more_imports = collect_all(runtime)
        datas += more_datas
        binaries += more_binaries
        hiddenimports += more_imports
