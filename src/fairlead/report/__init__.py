"""What a reader looks at: picture grids, plots, tables and one self-contained page."""
