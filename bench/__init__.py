"""`python -m bench`: what things cost on this machine, each beside its budget.

Nothing here asserts a time. A row that can't be measured on this machine says why.
"""
