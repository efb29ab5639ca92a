"""The parts of gpu_session.py: each file is one idea, each function one part."""
