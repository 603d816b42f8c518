"""The RunPod worker: pops jobs from a Horde, draws them, uploads and submits them."""
