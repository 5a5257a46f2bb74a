"""`python -m spa_compiler` is `spa-compile`."""

from spa_compiler.cli.start import compile_command

if __name__ == "__main__":  # whoever imports every module of a package runs nothing
    compile_command(prog_name="python -m spa_compiler")
