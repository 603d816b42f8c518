"""LoRAs and textual inversions: found by name or number, fetched, checked, and drawn with.

Only `adapters`, `lora` and `inversion` need torch.
"""
