"""A client of any xDS server: what `reconciler xds get` and the conformance suite ask with."""
