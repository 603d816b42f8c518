"""Rebuild the demo model from two emoji packages: `python -m gpu_worker.train`."""
