"""What is trained, each in a file with its method's name; ``base.py`` has what all methods that train share."""
