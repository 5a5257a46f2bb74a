"""Print the operator table: `python -m spa_compiler.operators.tables > docs/operators.md`."""

from spa_compiler.operators.tables import table

print("\n".join(table()))
