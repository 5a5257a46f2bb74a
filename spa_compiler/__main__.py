"""`python -m spa_compiler` is `spa-compile`."""

from spa_compiler.cli.start import compile_command

compile_command(prog_name="python -m spa_compiler")
