"""Networks: embeddings with their null tokens, shared blocks, the U-Net, the DiT, the noisy-image classifier."""
