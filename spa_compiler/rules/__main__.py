"""Print the operator table: `python -m spa_compiler.rules > docs/operators.md`."""

from spa_compiler.rules import table

print("\n".join(table()))
