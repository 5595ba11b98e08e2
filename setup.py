"""What a table can't say: models/ and specs/ are packages inside `reconciler`, and what a wheel has
that is made from sources: protobuf modules, the BPF object, the binding of libbpf.

`pip wheel .` makes them, with what kernel/Makefile needs (clang, libbpf-dev). With
RECONCILER_KERNEL=no it makes a wheel without the kernel's half, for a server: an agent from it
has the datapath in memory only. An editable install makes nothing; `make build` does.
"""

import os
import subprocess
import sys

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

KERNEL = os.environ.get("RECONCILER_KERNEL", "yes") != "no"


class Build(build_py):
    def run(self) -> None:
        if not self.editable_mode:
            protoc = (
                "-m grpc_tools.protoc -Ireconciler/wire=proto/reconciler/v1 --python_out=. "
                "--pyi_out=. reconciler/wire/resources.proto"
            )
            subprocess.run([sys.executable, *protoc.split()], check=True)
            if KERNEL:
                make = ["make", "-C", "kernel", f"PYTHON={sys.executable}"]
                # layout.h is made from the package; what pip has got for the build is on the path
                path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
                subprocess.run(make, check=True, env={**os.environ, "PYTHONPATH": path})
        super().run()


class Binary(Distribution):
    """Of one Python and one kind of machine, where the binding is in it."""

    def has_ext_modules(self) -> bool:
        return KERNEL


setup(
    cmdclass={"build_py": Build},
    distclass=Binary,
    packages=[*find_packages(include=["reconciler*"]), "reconciler.models", "reconciler.specs"],
    package_dir={"reconciler.models": "models", "reconciler.specs": "specs"},
    package_data={
        "reconciler.models": ["*.toml"],
        "reconciler.specs": [
            *("*.toml", "*.tla", "mutants/*.toml", "mc/*.tla", "mc/*.cfg", "trace/*.tla"),
            "golden/*/*.json",
        ],
        "reconciler.server.kubernetes": ["crds/*.yaml"],
        "reconciler.testing": ["profiles/*.toml"],
        "reconciler.testing.conformance": ["scenarios/*.toml"],
        "reconciler.datapath": ["datapath.bpf.o", "_libbpf*.so"],
    },
    exclude_package_data={} if KERNEL else {"reconciler.datapath": ["*.o", "*.so"]},
)
