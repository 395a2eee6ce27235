"""Make the environment that Topaz runs in: a program beside verglas, never a part of it (GPL-3).

    python benchmarks/peers/install.py                        # into benchmarks/work/topaz-env, about 2 GB
    python benchmarks/peers/install.py /elsewhere/topaz-env   # then compare.py --topaz /elsewhere/topaz-env

PyTorch comes first, from whatever index pip is set to; a CPU build serves. An environment that answers is left alone.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
TOPAZ = HERE.parent / "work" / "topaz-env"
VERSION = "0.3.20"
STEPS = (("torch==2.13.0",), ("--no-deps", "torchvision==0.28.0"), (f"topaz-em=={VERSION}",))

SITE = '''\
"""Let torchvision be imported beside a PyTorch without CUDA: its compiled operators are missing and not needed."""
import importlib.abc
import sys


class _Before(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            real = torch.library.register_fake

            def register_fake(op, *args, **kwargs):
                absent = isinstance(op, str) and op.startswith("torchvision::")
                return (lambda function: function) if absent else real(op, *args, **kwargs)

            torch.library.register_fake = register_fake


sys.meta_path.insert(0, _Before())
'''


def main() -> None:
    environment = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else TOPAZ
    if version(environment) != VERSION:
        venv.create(environment, with_pip=True, clear=True)
        (environment / "site").mkdir()
        (environment / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        for step in STEPS:
            subprocess.run([environment / "bin" / "pip", "install", "--quiet", *step], check=True)
    found = version(environment)
    if found != VERSION:
        sys.exit(f"{environment}: topaz says {found or 'nothing'}, expected {VERSION}; remove the folder and try again")
    print(f"{environment}: topaz {found}")


def variables(environment: Path, threads: int) -> dict[str, str]:
    """Return the environment variables that Topaz runs with."""
    return {**os.environ, "PYTHONPATH": str(environment / "site"), "OMP_NUM_THREADS": str(threads)}


def version(environment: Path) -> str:
    """Return what ``topaz --version`` says last, or nothing where it does not run."""
    program = environment / "bin" / "topaz"
    if not program.exists():
        return ""
    told = subprocess.run([program, "--version"], env=variables(environment, 1), capture_output=True, text=True)
    return told.stdout.split()[-1] if told.returncode == 0 and told.stdout.split() else ""


if __name__ == "__main__":
    main()
