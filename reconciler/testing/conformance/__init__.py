"""Scenarios of the xDS protocol, and what runs them against any server.

scenarios/*.toml   what must happen, as data
language.py        how a scenario is written
resources.py       the resources that scenarios speak of
judge.py           what a response must obey
runner.py          runs scenarios
adapters.py        how a target is given its state
report.py          results as tables
"""
