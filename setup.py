"""The part of the build that a table can't say: models/ is a package inside `reconciler`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["reconciler*"]), "reconciler.models"],
    package_dir={"reconciler.models": "models"},
    package_data={
        "reconciler.models": ["*.toml"],
        "reconciler.datapath": ["datapath.bpf.o", "_libbpf*.so"],
    },
)
