"""Mistakes of a user by their names: what was typed, and what the message must say."""

from bad_input import checkpoints, commands, configs, own_code, runs, trainer

TABLES = (commands, configs, runs, trainer, checkpoints, own_code)
CASES = {name: case for table in TABLES for name, case in table.CASES.items()}
FILES = configs.FILES | own_code.FILES

assert len(CASES) == sum(len(table.CASES) for table in TABLES), "a name stands for two mistakes"
