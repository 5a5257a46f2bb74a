"""Everything that is known of an operator: its rule, its contraction, its shape operands."""
