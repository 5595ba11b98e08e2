"""What a table can't say: models/ and specs/ are packages inside `reconciler`."""

from setuptools import find_packages, setup

setup(
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
        "reconciler.datapath": ["datapath.bpf.o", "_libbpf*.so"],
    },
)
