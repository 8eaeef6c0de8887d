"""What is known, at which index: tables, watches, and the commands that change them."""
