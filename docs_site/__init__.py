"""What the documentation makes of the code while it is built: formulas, pictures, indexes, the interface."""
