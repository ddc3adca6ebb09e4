"""The ``teddy-cloud`` command. ``app.py`` names the commands; everything heavy is imported inside them."""
