"""Running an experiment's code so that it can touch nothing but its own scratch folder.

`select.select_sandbox` picks a backend, `base` says what every backend promises. This file imports
nothing: the supervisor process of every run passes through it, and its start-up time counts.
"""
