"""Mistakes of a user by their names: what was typed, and what the message must say."""

from bad_input import checkpoints, commands, configs, data, own_code, runs, trainer

TABLES = (commands, configs, runs, trainer, checkpoints, own_code, data)
CASES = {name: case for table in TABLES for name, case in table.CASES.items()}
FILES = configs.FILES | own_code.FILES | data.FILES

assert len(CASES) == sum(len(table.CASES) for table in TABLES), "a name stands for two mistakes"
