"""Print the operator table: `python -m spa_compiler.operators.tables > docs/operators.md`."""

from spa_compiler.operators.tables import list_operators

print("\n".join(list_operators()))
