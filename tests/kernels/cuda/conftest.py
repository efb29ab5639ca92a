"""What is run in processes of its own, and needs Triton, is not collected for its examples."""

collect_ignore = ["interpreted.py", "interpreter.py"]
