"""How the wheel is built: what each row passes through is compiled with mypyc, where there is a C compiler.

The modules stay in the wheel as Python too, and run as that where they were not compiled. See deploy/decisions/0023.
"""

from __future__ import annotations

from mypyc.build import mypycify
from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel

#: Of the package cdc.
_COMPILED = (
    "capture",
    "checkpoint",
    "contract/event",
    "contract/lsn",
    "copied",
    "cutting",
    "history",
    "initial",
    "publisher",
    "routing",
    "scalars",
    "slot",
    "source",
    "template",
    "times",
    "transaction",
    "values",
)
#: `make check` checks types; here those of other libraries may be missing.
_OPTIONS = ["--config-file=", "--ignore-missing-imports"]


class Wheel(bdist_wheel):
    """A wheel for this platform, or one of plain Python where compiling fails."""

    def finalize_options(self) -> None:
        """Name what is to be compiled, before the wheel's name is made; an editable one has to follow its files."""
        if "bdist_wheel" in self.distribution.commands:
            self.distribution.ext_modules = _modules()
        super().finalize_options()


def _modules() -> list[Extension]:
    arguments = [*_OPTIONS, *(f"cdc/{name}.py" for name in _COMPILED)]
    modules = mypycify(arguments, target_dir="build/mypyc", debug_level="0")
    for module in modules:
        module.optional = True
    return modules
