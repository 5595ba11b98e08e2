"""Policies: from objects to rules, compiled rule sets, and the kernel entries of each peer."""
