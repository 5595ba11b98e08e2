"""The commands of `reconciler`, one module a group. Heavy imports happen inside them, when run."""
