"""hatchling's build hook: compile the native operators into the wheel, where there are any.

Without a compiler, or on a machine that has no native operators, the wheel is built without them
and fits every platform; the daemon then runs the portable graphs and says so in its log.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "edge_runtime/engine/native"


class NativeOperators(BuildHookInterface[Any]):
    """Adds `librow.so` to the wheel and names the platforms it runs on."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files; `version` is `standard` or `editable`."""
        if self.target_name != "wheel" or version != "standard":
            return
        root = Path(self.root)
        # By its path: importing the package would need the daemon's dependencies here.
        spec = importlib.util.spec_from_file_location("native_build", root / PACKAGE / "build.py")
        if spec is None or spec.loader is None:
            raise RuntimeError(f"{PACKAGE}/build.py cannot be loaded")
        native = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(native)

        out = root / "build" / "native" / native.LIBRARY
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            command = native.compiler()
        except native.NoCompilerError as error:
            self.app.display_warning(f"wheel without native operators: {error}")
            return
        native.build(out, command)
        build_data["force_include"][str(out)] = f"{PACKAGE}/{native.LIBRARY}"
        build_data["pure_python"] = False
        # zig links against the old glibc it was told; another compiler against this machine's.
        portable = "ziglang" in command
        platform = "manylinux_2_28_x86_64" if portable else "linux_x86_64"
        build_data["tag"] = f"py3-none-{platform}"
