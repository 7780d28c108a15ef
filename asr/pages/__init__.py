"""Pages of HTML that need nothing else: what they are made of, plots, their style."""
