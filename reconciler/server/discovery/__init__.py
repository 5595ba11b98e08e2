"""An xDS server for any types, from files: `reconciler xds serve`."""
