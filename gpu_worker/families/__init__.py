"""The families of models: each says how diffusers draws it and how its prompts are encoded."""
