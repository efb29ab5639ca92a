"""What is run in processes of its own, and needs Triton, is not collected for its examples."""

collect_ignore = ["interpreted_adapter.py", "interpreted_class_weights.py", "interpreter.py"]
